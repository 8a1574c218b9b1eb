"""Play the runs of ``screenshots.toml``, write their reports, and photograph these in a headless chromium."""

import shutil
import statistics
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from fedwave import simulation
from fedwave.experiment import Experiment
from fedwave.results.report import write_report

HERE = Path(__file__).resolve().parent
IMAGES = HERE.parent / "docs" / "img"
JOB = HERE / "screenshots.toml"
COMPARED = [
    "rounds=60",
    "sampler.cohort=10",
    "task.partition={name='dirichlet', alpha=0.2, clients=100}",
    "federation.deadline_s=4.0",
]


def reports(folder: Path) -> tuple[Path, Path]:
    """The report of the large run, and one of two methods with three seeds each."""
    simulation.run(Experiment.load(JOB), folder / "large")
    runs = []
    for method in ("fedavg", "fedadam"):
        for seed in range(3):
            runs.append(folder / f"{method}-{seed}")
            simulation.run(Experiment.load(JOB, [*COMPARED, f"method.name={method}", f"seed={seed}"]), runs[-1])
    return write_report([folder / "large"], folder / "large.html"), write_report(runs, folder / "compared.html")


def opened(browser: Browser, path: Path, *, width: int, height: int, scheme: str, scale: float = 1.0) -> Page:
    """The page with all figures drawn."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,
        device_scale_factor=scale,
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-drawn=true]")
    return page


def bound_round(page: Page) -> None:
    """Move the timeline to a round that a client ended although another one was lost."""
    for _ in range(200):
        if (
            page.locator("#round-says", has_text="bound it").count()
            and page.locator("#timeline .legend", has_text="lost").count()
        ):
            return
        page.locator("#next").click()


def opening_s(browser: Browser, path: Path) -> float:
    """Median seconds from the request to the last figure, of five."""
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        page = opened(browser, path, width=1440, height=900, scheme="light")
        seconds.append(time.perf_counter() - started)
        page.context.close()
    return statistics.median(seconds)


def main() -> None:
    """Everything into ``docs/img``."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        large, compared = reports(Path(folder))
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for path in (large, compared):
            print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, opened in {opening_s(browser, path):.2f} s")
        page = opened(browser, large, width=1440, height=900, scheme="light")
        page.screenshot(path=IMAGES / "report-light.png")
        page.locator("#cell").screenshot(path=IMAGES / "report-cell.png")
        page = opened(browser, large, width=1440, height=900, scheme="dark")
        bound_round(page)
        page.locator("#timeline").screenshot(path=IMAGES / "report-round-dark.png")
        opened(browser, compared, width=1440, height=1180, scheme="dark").screenshot(
            path=IMAGES / "report-compared-dark.png"
        )
        page = opened(browser, large, width=390, height=844, scheme="light", scale=1.5)
        page.screenshot(path=IMAGES / "report-phone-light.png")
        page.emulate_media(color_scheme="dark")
        bound_round(page)
        page.locator("#timeline").scroll_into_view_if_needed()
        page.screenshot(path=IMAGES / "report-phone-dark.png")
        browser.close()


if __name__ == "__main__":
    main()
