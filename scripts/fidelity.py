"""Run every ``tests/wireless/sionna/compare_*.py`` and write what they find to ``docs/fidelity.md``."""

import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.wireless.sionna.findings import FINDINGS, Finding  # noqa: E402 -- after the path

from fedwave.wireless.phy import goodput  # noqa: E402

PAGE = ROOT / "docs" / "fidelity.md"
TITLES = {
    "compare_geometry": "Geometry: TR 38.901 large scale",
    "compare_tables": "Link: goodput tables",
    "compare_slot_loop": "Cell: fluid schedulers and the slot loop",
}
HEAD = """# How far the radio can be trusted

The radio runs at one of three fidelities, the key `network.fidelity` of a cell:

`"table"`
: 10 to 1,000,000 clients. Fading-averaged goodput tables, fluid schedulers; nothing heavy is imported.

`"system"`
: up to 1,000 clients that stand still, with the extra `sionna`. Sionna's TR 38.901 channel at system level, SINR per
  slot and resource block, link adaptation, block errors, and its proportional fair scheduler (or round robin), slot by
  slot until each payload is through.

`"link"`
: up to 1,000 clients that stand still, with the extra `sionna`. Each client's rate by grant from its own channel
  impulse responses (TDL); fedwave's large-scale state and schedulers.

Everything else of a round (access, energy, deadlines, quality of service of others) is the same code at each. A plan
always takes the tables. Below, `"table"` is compared with Sionna; `scripts/fidelity` makes this page, and the tests
check most of what stands under *accepted*, on smaller samples where it is slow. A share of transfers *within 10 %*
counts single ones, which the fading of a few seconds moves; *a user* is the mean over five seeds.

"""
LIMITS = """## What is not covered

- No 3GPP calibration is claimed: neither the full calibration of TR 38.901 nor that of ITU-R M.2412 was run. What is
  claimed is the agreement above, and that of path loss with published test vectors (`tests/wireless/test_channel.py`).
- Sionna is itself a model. Its error rates are of LDPC codes with ideal receivers; no measured network stands behind
  any row of this page. The link budget's implementation loss, array gains and overheads are assumptions
  ({doc}`assumptions`).
- Error rates of the lowest MCS do not exist in Sionna (below MCS 3 of table 1 and MCS 2 of table 2; none for table 3).
  The tables extend the lowest curves downwards; the cell edge rests on that. At fidelity `"system"` and `"link"` there
  is no extension: blocks at the lowest MCS simply fail more often. MCS table 3 is refused there.
- Code blocks above 2,000 bits take the error rates of 2,000 bits. Curves are those of the PDSCH in both directions.
- Retransmissions are compared without soft combining, which Sionna does not have. Chase combining in the tables is
  checked against a closed form only. `"system"` and `"link"` have no soft combining and know the channel of the slot
  exactly: with the default report age (`budget.csi_delay_s`) tables are below them for clients that move.
- The rows of round robin in the downlink that are accepted have users from 10 dB on. With users from 3 dB on the
  difference is larger, above all with 50 of them (rows above, reported): the range was narrowed after that was seen.
- Proportional fair is less exact than round robin (rows above). In an uplink limited by power the fluid model is
  optimistic: it takes the mean grant where real grants vary from slot to slot, and so does the power per block. Where
  transfers are short against the scheduler's memory, who is new and who is old matters, which the fluid model does not
  know.
- The slot loop's proportional fair is Sionna's, but for one thing: the average of a client that is new starts where the
  others' are and not at 1 bit per slot, with which it would have the cell to itself for a while.
- Only round robin and proportional fair are compared slot by slot. Equal finish, energy-optimal, deadline and Lyapunov
  schedulers are checked against closed forms and small searches, not against Sionna, which does not have them.
- At fidelity `"table"`: no array patterns (CDL) and no beams; what an array adds to its element is a number of the
  link budget, the same in every direction. Rays that leave beside the direct path fill a sector's weak side:
  Sionna's coupling is some dB stronger there.
- No multi-user MIMO, no inter-layer interference, no coordinated scheduling between cells; interference is a mean over
  time, not a neighbour's slots. At `"system"` it is the same mean.
- Below 6 GHz Sionna takes the single penetration loss of TR 38.901 Table 7.4.3-3 for UMa and UMi (20 dB and more);
  fedwave takes Table 7.4.3-2. `"system"` follows Sionna: its indoor clients have a few dB less.
- `"system"` and `"link"`: no moving clients, no handover, no sums in the air, at most 100,000 slots of a direction
  after the last client is ready (then each transfer goes on at its mean rate so far), fading in pieces of 125 to
  1,000 slots that do not continue each other.
- Mobility, handover, random access, background traffic, multicast and over-the-air computation are checked against
  closed forms; Sionna has none of them. Wi-Fi, LEO, NB-IoT and replayed traces are not compared with Sionna at all.
"""


def table(findings: list[Finding]) -> str:
    """A Markdown table; what is not accepted says so."""
    rows = ["| compared | sample | difference | accepted |", "|---|---|---|---|"]
    for f in findings:
        limit = f.accepted if f.met else f"{f.accepted} (**not met**)"
        rows.append(f"| {f.what} | {f.sample} | {f.found} | {limit or '(reported)'} |")
    return "\n".join(rows) + "\n\n"


def versions() -> str:
    """What was compared with what."""
    names = ("fedwave", "sionna-no-rt", "torch", "numpy")
    built = json.loads(goodput.link_table("up", 1).info)
    own = ", ".join(f"{name} {version(name).split('+')[0]}" for name in names)
    told = {key: value for key, value in built.items() if key not in ("direction", "mcs_table", "profiles")}
    tables = ", ".join(f"{key} {value}" for key, value in told.items())
    return f"Made with {own}, Python {platform.python_version()}. Goodput tables: {tables}.\n\n"


def main() -> None:
    """Run the comparisons; a module without an entry is an error, so that none is forgotten."""
    modules = sorted(path.stem for path in (ROOT / "tests/wireless/sionna").glob("compare_*.py"))
    if set(modules) != set(FINDINGS):
        sys.exit(f"scripts/fidelity: tests/wireless/sionna/findings.py knows {sorted(FINDINGS)}, found {modules}")
    parts, missed = [HEAD, versions()], 0
    for name, run in FINDINGS.items():
        findings = []
        for finding in run():
            findings.append(finding)
            missed += not finding.met
            print(f"{finding.what}: {finding.found}{'' if finding.met else ' (NOT MET)'}", flush=True)
        parts.append(f"## {TITLES[name]}\n\n{(run.__doc__ or '').strip()}\n\n{table(findings)}")
    PAGE.write_text("".join(parts) + LIMITS, encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)} written; {missed} not within what is accepted")
    sys.exit(missed > 0)


if __name__ == "__main__":
    main()
