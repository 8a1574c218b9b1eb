"""Federated learning algorithms, one file each. :class:`~fedwave.methods.method.Method` is the base; its defaults are FedAvg."""
