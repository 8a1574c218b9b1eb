"""The only door to Sionna and PyTorch below ``fedwave.wireless``: both are imported when a function is called."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from fedwave.core.errors import BadInput
from fedwave.core.keys import Key

DEVICE = "cpu"  # a reference must give the same numbers everywhere
PDSCH = 1  # Sionna's MCS category

# MCS tables with EESM parameters and BLER curves in Sionna 2.2: 1 (64QAM) and 2 (256QAM) of TS 38.214 5.1.3.1.
MCS_TABLES = (1, 2)


def require_sionna(fidelity: str) -> Any:
    """PyTorch, once Sionna is known to be there.

    Raises
    ------
    BadInput : one of them is not installed.
    """
    try:
        import sionna.phy  # noqa: F401
        import torch
    except ModuleNotFoundError:
        raise BadInput(f"fidelity = \"{fidelity}\" needs Sionna: pip install 'fedwave[sionna]'") from None
    return torch


@contextmanager
def seeded(key: Key) -> Iterator[None]:
    """Sionna's draws inside are a function of ``key``; the caller's generators are as before afterwards."""
    import torch
    from sionna.phy import config

    with torch.random.fork_rng(devices=[]):  # Sionna seeds PyTorch's default generator too
        before, config.seed = config.seed, key.value
        try:
            yield
        finally:
            config.seed = before


@lru_cache(maxsize=4)  # half a second each, and none keeps a state
def link_adaptation(data_elements: int, bler_target: float) -> tuple[Any, Any, Any]:
    """Sionna's ``PHYAbstraction``, ``InnerLoopLinkAdaptation`` and transport block for SINR given by resource block.

    Sionna counts one resource element per SINR value. Here a value stands for a resource block (and slot), so its
    transport block is sized for ``data_elements`` times as many; nothing else of Sionna is changed.

    The curves are those of the PDSCH in both directions: the code is the same, the uplink without transform precoding
    uses the same MCS tables (TS 38.214 6.1.4.1), and the PUSCH curves of the 256QAM table start at MCS 9 only. The
    lowest MCS with a curve is 3 of table 1 and 2 of table 2: below, link adaptation stays at that MCS and its blocks
    fail, so the cell edge is worse here than in NR. Curves of code blocks above 2,000 bits are those of 2,000 bits.
    """
    from sionna.phy.nr.utils import TransportBlockNR
    from sionna.sys import InnerLoopLinkAdaptation, PHYAbstraction

    class BlockwiseTransportBlock(TransportBlockNR):
        """Transport blocks of whole resource blocks."""

        def transport_block_size(
            self, modulation_order: Any, target_coderate: Any, num_coded_bits: Any, **kwargs: Any
        ) -> Any:
            return super().transport_block_size(
                modulation_order, target_coderate, num_coded_bits * data_elements, **kwargs
            )

    blocks = BlockwiseTransportBlock(device=DEVICE)
    phy = PHYAbstraction(transport_block_fun=blocks, device=DEVICE)
    return phy, InnerLoopLinkAdaptation(phy, bler_target=bler_target, device=DEVICE), blocks
