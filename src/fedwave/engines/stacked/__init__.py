"""Many clients through one forward and backward pass: stacked leaves, slots, passes."""
