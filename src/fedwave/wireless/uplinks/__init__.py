"""How the updates of a round share the uplink: digitally, or summed in the air."""
