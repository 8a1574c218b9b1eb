"""What is learned: a model, its trainable part, a loss, federated data, an evaluation. Planning needs no torch here."""
