"""Learners around learners: half precision, and activations that are kept."""
