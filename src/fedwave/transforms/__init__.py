"""What happens to a payload before the air: clip, sparsify, quantise; ``chain.Chain`` joins them."""
