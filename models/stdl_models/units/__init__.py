"""Units, the atoms that splitting, auxiliary networks, merging and export agree on.

A network is an ordered list of units and a readout. A cut between subnetworks may stand behind any unit that puts out
spikes. A unit says what it computes once, in `compute`, and is run in three ways (`flows`): one step with explicit
state, all steps at once, a chunk of steps without a gradient between them. It has a spec: a few named values from which
it can be built for any input shape, so an auxiliary network builds fresh copies of a network's later units.

| kind             | what                                                        | NIR                                 |
|------------------|-------------------------------------------------------------|-------------------------------------|
| conv             | convolution, norm, neuron                                   | Conv2d, IF or LIF                   |
| linear           | (pool,) flatten, linear map, norm, neuron                   | (AvgPool2d, Flatten,) Affine, LIF   |
| residual         | two conv layers, a shortcut; spikes added (SEW block, ADD)  | as conv; the addition is fan-in     |
| bottleneck       | three conv layers, a shortcut; spikes added (SEW)           | as residual                         |
| spiking_residual | two conv layers, a shortcut; currents added, binary spikes  | as conv; fan-in to the last neuron  |
| avgpool          | average pool                                                | AvgPool2d                           |
| module           | a stateless PyTorch module of the user                      | none: for training only             |
| readout          | (pool,) flatten, linear map (, LI): logits of one time step | (AvgPool2d, Flatten,) Affine (, LI) |

"norm" is batch normalisation, which folding removes before the export. Spec and unit of a kind stand together: blocks
with a shortcut in `residual`, all others in `simple`. `registry` lists them.
"""
