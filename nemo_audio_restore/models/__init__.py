"""NeMo models: they wire representation, process, network and sampler, train them, and save and restore them."""
