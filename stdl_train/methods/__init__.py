"""Training methods, one file each, one interface (`base.Method`); `registry.METHODS` names them."""
