"""Training deep spiking networks with spatio-temporal decoupled learning (STDL), and with its rivals for comparison."""
