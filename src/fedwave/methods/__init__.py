"""Federated learning algorithms, one file each; ``method.py`` holds the base, whose defaults are FedAvg."""
