"""Where devices and sites are, and what the air between them takes: layout, antennas, shadowing, mobility."""
