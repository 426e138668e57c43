"""Runs bundles on devices and proves parity: no PyTorch here. Start at `base.load` or the command `stdl-validate`."""
