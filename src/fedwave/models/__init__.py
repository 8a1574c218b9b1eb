"""Where models come from, and what shape they have: sources, architectures, the catalogue. No torch at import."""
