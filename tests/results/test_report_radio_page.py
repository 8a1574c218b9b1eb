"""The radio's part of the report's page, in tables and in a browser."""

import shutil
import warnings

import pytest

from fedwave.results.report.page import render

from .radio_logs import BASE, deployment, line, log, network, rows

pytestmark = pytest.mark.xdist_group("report")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of a cluster with all that a radio may have."""
    path = tmp_path_factory.mktemp("radio") / "radio.html"
    records, table = deployment()
    path.write_text(render([log(records, table, network=network(7), base=BASE)]), encoding="utf-8")
    return path


def test_tables_stand_in_the_page_without_a_script(page):
    text = page.read_text(encoding="utf-8").split("<script")[0]
    for wanted in (
        "One-time delivery of the base model", "1.0 GB", "12.0 GB", "5 min 12 s", "3.1 %",
        "What federated learning costs the other users", "downlink, 5QI 1", "overload in 25 % of rounds",
        "deadline: compute", "Lost updates by device class and cause", "36.0 kJ",
        "not part of the energy; 39 handovers",
    ):  # fmt: skip
        assert wanted in text, wanted


def test_a_run_without_a_radio_says_nothing_of_it():
    text = render([log([line(0)])]).split("<script")[0]
    for absent in ("base stations</span>", "One-time delivery", "other users", "handover", "Uplink SINR, and rate"):
        assert absent not in text, absent


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no chromium is installed")
    with warnings.catch_warnings(), sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def opened(browser):
    """Opens a page and closes it in the end, when nothing may have complained and nothing may be too wide."""
    contexts, complaints = [], []

    def open_page(path, **options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-drawn=true]")
        return page

    yield open_page
    for context in contexts:
        assert context.pages[0].evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
        context.close()
    assert complaints == []


def rendered(path, *logs):
    path.write_text(render(list(logs)), encoding="utf-8")
    return path


def box(page, selector):
    return page.locator(selector).first.bounding_box()


@pytest.mark.parametrize(("size", "scheme"), [((360, 740), "dark"), ((1920, 1080), "light")])
def test_radio_is_drawn(opened, page, size, scheme):
    shown = opened(page, viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    for name in ("cell", "signal", "sinr", "rate", "prb", "blocks", "symbols", "gnb", "lost"):
        assert shown.locator(f"#f-{name} :is(.point, .js-line)").count(), name
        drawn = box(shown, f"#f-{name} .main-svg")
        assert drawn["width"] > 200, name
        assert drawn["height"] > 100, name
    assert shown.evaluate("document.getElementById('f-sinr').data.length") == 4  # two classes, all, the marks
    assert shown.evaluate("document.getElementById('f-cell').data.at(-1).x.length") == 7
    assert "deadline: compute" in shown.locator("[data-legend=lost]").inner_text()
    shown.locator("#colours button", has_text="share lost").click()
    assert shown.locator("#f-cell .point").count()
    assert shown.locator("#map-title").inner_text() == "Map of the devices by share lost"


def test_percentiles_are_labelled_inside_their_figures(opened, page):
    for width in (360, 1440):
        shown = opened(page, viewport={"width": width, "height": 900})
        for name in ("sinr", "rate"):
            labels = shown.locator(f"#f-{name} .annotation")
            assert [text.split(":")[0] for text in labels.all_text_contents()] == ["p5", "p50", "p95"]
            figure = box(shown, f"#f-{name}")
            for label in labels.all():
                found = label.bounding_box()
                assert figure["x"] <= found["x"], (name, width)
                assert found["x"] + found["width"] <= figure["x"] + figure["width"], (name, width)


def test_figures_without_data_are_hidden(opened, tmp_path):
    shown = opened(rendered(tmp_path / "bare.html", log([line(0)])))
    assert not shown.locator("#cell").is_visible()
    assert not shown.locator("#f-gnb").is_visible()
    assert shown.locator("#f-energy").is_visible()


@pytest.mark.parametrize("name", ["ideal", "wifi", "leo", "nb-iot"])
def test_networks_without_cells_are_drawn(opened, tmp_path, name):
    """No places, cells, blocks or SINR in the log: what there is not is hidden, and nothing complains."""
    table = rows(*[(n, k, "delivered") for n in range(2) for k in range(4)], x_m=0.0, y_m=0.0)
    if name == "wifi":
        table["up_bps"] = 5e6
    run = log([line(n, clients=4) for n in range(2)], table, network={"name": name})
    shown = opened(rendered(tmp_path / "plain.html", run))
    assert shown.locator("#f-rate").is_visible() == (name == "wifi")
    assert shown.locator("#cell").is_visible() == (name == "wifi")
    assert not shown.locator("#f-cell").is_visible()
    assert shown.locator("#f-timeline").is_visible()


def test_a_round_with_nobody_delivered_is_drawn(opened, tmp_path):
    """Nor is there a loss to draw. One figure of two is left in its row, and fills it."""
    late = rows(*[(0, k, "deadline") for k in range(5)], sinr_db=3.0, up_bps=0.0, cell=0, block_s=0.0)
    record = line(0, delivered=0, lost={"deadline": list(range(5))}, train_loss=None, prb_use=0.0)
    shown = opened(rendered(tmp_path / "dead.html", log([record], late)))
    assert shown.get_by_text("No round of this run was evaluated").is_visible()
    assert box(shown, "#f-sinr .main-svg")["width"] == pytest.approx(box(shown, "#f-sinr")["width"], abs=2)
    assert not shown.locator("#f-rate").is_visible()  # nobody has a link: no rate for a logarithmic axis
    assert "no link" in shown.locator("#cell").inner_text()
