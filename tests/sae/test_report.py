"""The page is complete in itself, shows the run, and is safe against what stands in the texts."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sae
import sae.report
from sae.cache import Cache
from sae.interpret.browser import unpack
from sae.report.charts import firing_charts, training_charts
from sparsecode import io

EVIL = "<img src=x onerror=window.hacked=1>"


class Page(HTMLParser):
    """Elements with their attributes, and the text of scripts by id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.words: list[str] = []
        self._script: str | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self._script = dict(attrs).get("id") or "program"

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._script = None

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="session")
def run_folder(word_cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / EVIL
    model = sae.TopK(n_features=16, n_latents=48, k=4, seed=0)
    config = sae.TrainConfig(batch_size=64, n_steps=30, eval_every=10, log_every=1, out_dir=out)
    sae.Trainer(model, word_cache, config).fit()
    return out


@pytest.fixture(scope="session")
def page_file(
    run_folder: Path, word_cache: Cache, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return sae.report.write(run_folder, word_cache, tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture(scope="session")
def page(page_file: Path) -> Page:
    return Page(page_file.read_text())


def test_nothing_is_loaded_from_anywhere(page: Page) -> None:
    addresses = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "action", "data", "poster", "srcset")
    ]
    assert addresses
    assert all(address and address.startswith(("#", "data:,")) for address in addresses)
    policies = [a["content"] for _, a in page.elements if a.get("http-equiv")]
    assert len(policies) == 1
    assert "default-src 'none'" in str(policies[0])


def test_own_style_and_program_name_no_address(page_file: Path) -> None:
    templates = Path(sae.report.__file__).parent / "templates"
    for file in templates.iterdir():
        found = re.findall(r"https?://[^\s\"')]+", file.read_text())
        assert set(found) <= {"http://www.w3.org/2000/svg"}, file  # a name, not an address
        assert "@import" not in file.read_text()


def test_size(page_file: Path) -> None:
    assert page_file.stat().st_size < 2.5e6


def test_cards_tell_the_evaluation(page: Page, run_folder: Path) -> None:
    found = io.read_json(run_folder / "evaluation.json")
    assert f"FVU {found['fvu']:.4f} fraction of variance unexplained, held-out tokens" in page.text
    assert f"Explained variance {found['explained_variance']:.1%}" in page.text
    assert f"L0 {found['l0']:.1f}" in page.text
    assert "k = 4" in page.text
    assert "48 latents" in page.text
    assert "30 steps" in page.text
    assert "encoder.layer.0" in page.text


def test_latents_are_embedded_as_json(page: Page) -> None:
    data = json.loads(page.scripts["data"])
    assert data["n_latents"] == 48
    assert len(unpack(data["count"])) == 48
    assert "kingdom" in "".join(data["vocabulary"]).replace(" ", "")


def test_every_chart_has_its_place_and_its_figure(page: Page) -> None:
    figures = json.loads(page.scripts["figures"])
    places = [a["data-chart"] for _, a in page.elements if "data-chart" in a]
    assert places == list(figures)
    assert {"fvu", "loss", "l0", "dead", "lr", "frequency", "latents"} <= set(figures)
    curves = figures["fvu"]["data"]
    assert [curve["name"] for curve in curves] == ["training", "held out"]
    assert [len(curve["x"]) for curve in curves] == [30, 3]


def test_texts_of_the_data_cannot_become_markup(page: Page, page_file: Path) -> None:
    vocabulary = json.loads(page.scripts["data"])["vocabulary"]
    assert any(EVIL in text for text in vocabulary)
    assert EVIL not in page_file.read_text()
    tags = [tag for tag, _ in page.elements]
    assert "img" not in tags
    assert tags.count("script") == 4


def test_names_of_folders_cannot_become_markup(
    run_folder: Path, page: Page, page_file: Path
) -> None:
    # The folder of the run is called like the attack; the settings show it.
    assert EVIL in page.text
    assert run_folder.name == EVIL
    assert str(run_folder.parent) not in page_file.read_text()


def test_two_writings_give_the_same_bytes(
    run_folder: Path, word_cache: Cache, page_file: Path, tmp_path: Path
) -> None:
    again = sae.report.write(run_folder, word_cache, tmp_path / "again.html")
    assert again.read_bytes() == page_file.read_bytes()


def test_an_array_gives_row_numbers(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    np.save(tmp_path / "rows.npy", x)
    sae.save(sae.TopK(n_features=8, n_latents=16, k=2, seed=0), tmp_path / "model")
    out = sae.report.write(tmp_path / "model", tmp_path / "rows.npy", tmp_path / "report.html")
    page = Page(out.read_text())
    assert "The data have no tokens" in page.text
    assert "vocabulary" not in json.loads(page.scripts["data"])
    assert "Training" not in page.text  # no log, no curves
    assert "TopK on an array of activations" in page.text


def test_a_damaged_log_is_refused(run_folder: Path, word_cache: Cache, tmp_path: Path) -> None:
    shutil.copytree(run_folder, tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3')
    with pytest.raises(
        io.CorruptFileError, match=r"metrics.jsonl` must hold one JSON object a line"
    ):
        sae.report.write(tmp_path / "run", word_cache, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_data_of_another_width_are_refused(run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"n_features\) = \(any, 16\); got \(30, 5\)"):
        sae.report.write(run_folder, torch.randn(30, 5), tmp_path / "report.html")


def test_missing_packages_are_named(tmp_path: Path) -> None:
    source = (
        "import sys\n"
        "class Blocker:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'plotly':\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Blocker())\n"
        "import sae.report\n"
        "sae.report.write('run', 'data')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert "`sae.report` needs Jinja2 and plotly; plotly is not installed." in done.stderr
    assert "pip install 'sparsecode[report]'" in done.stderr


def rows_of_metrics(n: int) -> list[dict[str, Any]]:
    return [{"step": step, "split": "train", "fvu": 1 / (step + 1)} for step in range(n)]


def test_long_curves_are_thinned_and_keep_their_end() -> None:
    (chart,) = training_charts(rows_of_metrics(100_001))
    (curve,) = chart.figure["data"]
    assert 300 < len(curve["x"]) <= 600
    assert curve["x"][-1] == 100_000
    assert "training ends at 1e-05" in chart.summary


def test_curves_leave_out_what_is_not_finite() -> None:
    (chart,) = training_charts([*rows_of_metrics(3), {"step": 9, "fvu": float("nan")}])
    assert list(chart.figure["data"][0]["x"]) == [0, 1, 2]


def test_no_metrics_no_curves() -> None:
    assert training_charts([]) == []


def test_the_frequency_histogram_has_the_counts_of_the_evaluation() -> None:
    counts = {"log10_edges": [-2.0, -1.0, 0.0], "counts": [5, 7], "never": 3}
    frequency, latents = firing_charts({"frequency_histogram": counts, "split": "heldout"})
    bars = frequency.figure["data"][0]
    assert list(bars["y"]) == [5, 7]
    assert bars["x"] == pytest.approx([10**-1.5, 10**-0.5])
    assert "the 3 latents that never fired" in frequency.note
    assert latents.name == "latents"


def test_a_loss_term_that_is_zero_for_a_while_does_not_end_the_logarithmic_axis() -> None:
    rows = [
        {"step": step, "split": "train", "loss/mse": 1.0 / step, "loss/auxk": 0.1 * (step > 5)}
        for step in range(1, 10)
    ]
    (loss,) = [chart for chart in training_charts(rows) if chart.name == "loss"]
    curves = {curve["name"]: curve for curve in loss.figure["data"]}
    assert loss.figure["layout"]["yaxis"]["type"] == "log"
    assert loss.note.endswith("logarithmic")
    assert (len(curves["mse"]["x"]), list(curves["auxk"]["x"])) == (9, [6, 7, 8, 9])


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")

# Goes through the page as a reader would and leaves a list of what went wrong.
VISIT = """
<script>
(() => {
  const wrong = [];
  const check = (truth, what) => { if (!truth) wrong.push(what); };
  const all = (selector) => [...document.querySelectorAll(selector)];
  const set = (id, value, kind) => {
    document.getElementById(id).value = value;
    document.getElementById(id).dispatchEvent(new Event(kind, { bubbles: true }));
  };
  const press = (element, key) =>
    element.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  const later = (action, wait = 400) =>
    new Promise((go) => setTimeout(() => { action(); go(); }, wait));
  const numbers = () => all(".item").map((item) => Number(item.dataset.latent));
  const detail = () => document.getElementById("detail");

  addEventListener("load", async () => {
    check(document.documentElement.dataset.ready === "yes", "the list is there");
    set("filter", "all", "change");
    check(numbers().length === 48, "all latents are listed");
    set("sort", "density", "change");
    const share = (item) => item.querySelector(".share").textContent;
    check(share(all(".item")[0]).startsWith("1 in "), "a frequency is shown");
    const counts = all(".item").map((item) => share(item) === "never fired" ? Infinity
      : Number(share(item).replace("1 in ", "").replaceAll(",", "")));
    check(counts.every((count, i) => !i || count >= counts[i - 1]), "sorted by frequency");
    set("sort", "id", "change");
    check(numbers().every((n, i) => !i || n > numbers()[i - 1]), "sorted by number");

    check(all(".item").filter((item) => item.tabIndex === 0).length === 1, "one stop for Tab");
    all(".item")[3].focus();
    press(all(".item")[3], "ArrowDown");
    check(document.activeElement === all(".item")[4], "arrows move in the list");
    press(document.body, "/");
    check(document.activeElement.id === "search", "/ leads to the search");

    await later(() => set("search", "kingdom", "input"));
    await later(() => {
      check(numbers().length > 0 && numbers().length <= 48, "a word is found");
      all(".item")[0].click();
    });
    await later(() => {
      check(detail().textContent.includes("kingdom"), "the latent that was found holds the word");
      check(detail().querySelector("mark") !== null, "the word is marked");
      check(location.hash === "#latent-" + numbers()[0], "the address names the latent");
      check(document.activeElement === detail(), "the focus goes to the latent");
      const token = detail().querySelector(".token.peak");
      check(Number(token.dataset.value) > 0, "tokens have values");
      token.dispatchEvent(new Event("pointerover", { bubbles: true }));
      check(!document.getElementById("tip").hidden, "the value is shown");
      check(detail().querySelector("svg rect") !== null, "there is a histogram");
      document.body.dataset.neighbor = detail().querySelector(".neighbor").dataset.neighbor;
      detail().querySelector(".neighbor").click();
    });
    await later(() => {
      const wanted = "Latent " + document.body.dataset.neighbor;
      check(detail().querySelector("h3").textContent === wanted, "a neighbor is opened");
      press(detail(), "Escape");
      check(document.activeElement !== detail(), "Escape leads back");
    });
    await later(() => set("search", "window.hacked", "input"));
    await later(() => {
      check(numbers().length > 0, "odd tokens are found as text");
      all(".item")[0].click();
    });
    await later(() => {
      check(detail().textContent.includes("<img src=x"), "odd tokens are shown as text");
      check(window.hacked === undefined && !document.querySelector("img"), "and nothing else");
    });
    press(detail(), "Escape");
    await later(() => set("search", "17", "input"));
    await later(() => {
      check(numbers()[0] === 17, "a number is found");
      document.getElementById("search").focus();
      press(document.getElementById("search"), "Enter");
      check(document.activeElement.dataset.latent === "17", "Enter goes to the list");
    });
    await later(() => set("search", "no such text", "input"));
    await later(() => check(numbers().length === 0 && all(".none").length === 1, "nothing found"));
    await later(() => {
      set("search", "", "input");
      check(document.documentElement.dataset.charts === "drawn", "the charts are drawn");
      check(all(".plot .main-svg").length > 0, "as SVG");
      check(document.documentElement.scrollWidth <= innerWidth, "nothing is too wide");
      const loaded = performance.getEntriesByType("resource").map((entry) => entry.name);
      check(loaded.every((name) => name.startsWith("data:")), "nothing was loaded: " + loaded);
      check(innerWidth === WIDTH, "the page is as wide as it should be");
      parent.postMessage(JSON.stringify(wrong), "*");
    }, 4000);
  });
})();
</script>
"""


# A window cannot be as narrow as a phone, a frame can.
FRAME = """<!doctype html><body>
<iframe src="ADDRESS" width="WIDTH" height="900" frameborder="0"></iframe>
<script>
addEventListener("message", (event) => { document.body.dataset.wrong = event.data; });
</script></body>"""


@pytest.mark.parametrize("width", [1440, 390])
def test_a_browser_shows_the_page(page_file: Path, tmp_path: Path, width: int) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser is installed here: none of {', '.join(BROWSERS)}")
    visited, frame = tmp_path / "visited.html", tmp_path / "frame.html"
    visit = VISIT.replace("WIDTH", str(width))
    visited.write_text(page_file.read_text().replace("</body>", f"{visit}</body>"))
    frame.write_text(FRAME.replace("ADDRESS", visited.name).replace("WIDTH", str(width)))
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
        "--disable-background-networking --disable-component-update --virtual-time-budget=30000 "
        f"--user-data-dir={tmp_path / 'profile'} --window-size=1600,1000 --dump-dom"
    )
    done = subprocess.run(
        [browser, *flags.split(), frame.as_uri()],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    body = [attributes for tag, attributes in Page(done.stdout).elements if tag == "body"]
    assert body, done.stderr[-2000:]
    assert json.loads(body[0].get("data-wrong") or '["the visit did not end"]') == []
