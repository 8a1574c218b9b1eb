"""What every layer shares: types, trees of tensors, keys, the registry, configuration, errors."""
