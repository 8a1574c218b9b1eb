"""From SINR to bits: fading-averaged goodput tables, retransmissions."""
