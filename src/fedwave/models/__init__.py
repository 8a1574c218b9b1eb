"""Where models come from, and what shape they have: sources, architectures, the catalogue for planning. No torch at import."""
