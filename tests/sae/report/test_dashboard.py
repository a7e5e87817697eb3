"""The dashboard is complete in itself, and a browser can search, sort and walk through it."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import sae
import sae.report
from sae.cache import Cache
from sae.report import write_dashboard

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
EVIL = "<img src=x onerror=window.hacked=1>"


@pytest.fixture(scope="session")
def folder(word_cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dashboard")
    source = word_cache.at("encoder.layer.1")
    model = sae.TopK(n_features=16, n_latents=300, k=6, seed=0)
    model.initialize(source.rows(0, 200))
    sae.save(model, root / "run")
    return write_dashboard(root / "run", source, root / "site").parent


def read(path: Path) -> tuple[str, dict]:
    """The name and the value that a script of data hands over."""
    name, value = re.fullmatch(r"dashboardData\((\".*?\"),(.*)\);\n", path.read_text()).groups()
    return json.loads(name), json.loads(value)


def test_nothing_is_loaded_from_elsewhere(folder: Path) -> None:
    page = (folder / "index.html").read_text()
    named = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert named == ["data:,", "dashboard.css", "dashboard.js", "data/index.js"]
    assert all((folder / name).is_file() for name in named[1:])
    assert "default-src 'none'" in page
    for path in folder.rglob("*"):
        if path.suffix in (".js", ".css", ".html"):
            found = re.findall(r"https?://[^\s\"')]+", path.read_text())
            assert set(found) <= {"http://www.w3.org/2000/svg"}, path  # a name, not an address


def test_the_index_and_the_shards_hold_every_latent(folder: Path, word_cache: Cache) -> None:
    name, index = read(folder / "data" / "index.js")
    source = word_cache.at("encoder.layer.1")
    model = sae.load(folder.parent / "run")
    dense = model.encode(source.rows(0, source.n_rows)).to_dense()
    assert name == "index"
    assert index["count"] == (dense > 0).sum(0).tolist()
    assert index["max"] == pytest.approx(dense.amax(0).clamp(min=0).tolist(), rel=1e-3)
    shards = [read(folder / "data" / f"latents-{i:05d}.js") for i in range(3)]
    assert [name for name, _ in shards] == ["shard-0", "shard-1", "shard-2"]
    latents = {**shards[0][1]["latents"], **shards[1][1]["latents"], **shards[2][1]["latents"]}
    assert list(latents) == [str(i) for i in range(300)]
    assert not (folder / "data" / "latents-00003.js").exists()
    latent = int(np.argmax(index["count"]))
    entry, texts = latents[str(latent)], shards[latent // 128][1]["texts"]
    best = entry["e"][0]
    assert best["v"] == pytest.approx(index["max"][latent], rel=1e-3)
    assert best["a"][str(best["c"])] == pytest.approx(best["v"], rel=1e-3)
    text = "".join(texts[i] for i in best["t"]).lower()
    _, searched = read(folder / "data" / "search.js")
    assert searched[latent].startswith(text)


def test_neuronpedia_gets_the_fields_that_its_upload_reads(folder: Path) -> None:
    batches = [
        json.loads((folder / "neuronpedia" / f"batch-{i}.json").read_text()) for i in range(3)
    ]
    assert [len(batch["features"]) for batch in batches] == [128, 128, 44]
    assert set(batches[0]) == {"model_id", "layer", "sae_set", "sae_id_suffix", "features"}
    assert (batches[0]["layer"], batches[0]["sae_set"]) == (1, "encoder.layer.1")
    feature = max(batches[0]["features"], key=lambda entry: entry["frac_nonzero"])
    wanted = "feature_index neg_str neg_values pos_str pos_values frac_nonzero activations vector"
    assert set(wanted.split()) <= set(feature)
    rows = sae.load(folder.parent / "run").W_dec.detach()
    row = rows[feature["feature_index"]]
    assert feature["neuron_alignment_indices"] == row.topk(3).indices.tolist()
    assert feature["neuron_alignment_values"] == pytest.approx(
        row.topk(3).values.tolist(), abs=1e-4
    )
    shares = row.topk(3).values / row.abs().sum()
    assert feature["neuron_alignment_l1"] == pytest.approx(shares.tolist(), abs=1e-4)
    assert feature["logits_hist_data_bar_heights"] == []  # no language model was given
    for activation in feature["activations"]:
        assert len(activation["tokens"]) == len(activation["values"])
        peak = activation["values"][activation["qualifying_token_index"]]
        assert activation["bin_min"] <= peak <= activation["bin_max"] + 1e-3
    assert feature["activations"]


def test_texts_of_the_data_are_no_markup(folder: Path) -> None:
    assert any(EVIL in path.read_text() for path in (folder / "data").iterdir())
    assert EVIL not in (folder / "index.html").read_text()


def test_two_writings_give_the_same_bytes(folder: Path, word_cache: Cache, tmp_path: Path) -> None:
    again = write_dashboard(
        folder.parent / "run", word_cache.at("encoder.layer.1"), tmp_path / "site"
    ).parent
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert files == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    assert all((folder / name).read_bytes() == (again / name).read_bytes() for name in files)


def test_logits_of_a_language_model(gpt2_lm_folder: Path, tmp_path: Path) -> None:
    sae.save(sae.TopK(n_features=16, n_latents=10, k=2, seed=0), tmp_path / "run")
    rows = torch.randn(80, 16)
    page = write_dashboard(
        tmp_path / "run", rows, tmp_path / "site", lm=gpt2_lm_folder, neuronpedia=False
    )
    _, shard = read(page.parent / "data" / "latents-00000.js")
    assert len(shard["latents"]["3"]["p"]) == 8
    assert read(page.parent / "data" / "index.js")[1]["has_logits"]
    assert not (page.parent / "neuronpedia").exists()


def test_a_dashboard_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    sae.save(sae.TopK(n_features=16, n_latents=10, k=2, seed=0), tmp_path / "run")
    given = {"run": tmp_path / "run", "out": tmp_path / "site"}
    page = write_dashboard(data=torch.randn(80, 16), **given)
    first = (page.parent / "data" / "index.js").read_bytes()
    write_dashboard(data=torch.randn(80, 16), **given)
    second = (page.parent / "data" / "index.js").read_bytes()
    assert first != second
    assert (page.parent / "neuronpedia" / "batch-0.json").exists()
    with pytest.raises(ValueError, match="finite"):
        write_dashboard(data=torch.full((80, 16), float("nan")), **given)
    assert (page.parent / "data" / "index.js").read_bytes() == second
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "site"]


def test_rows_that_are_all_equal_have_no_fvu(tmp_path: Path) -> None:
    sae.save(sae.TopK(n_features=16, n_latents=10, k=2, seed=0), tmp_path / "run")
    page = write_dashboard(tmp_path / "run", torch.ones(1, 16), tmp_path / "site")
    assert read(page.parent / "data" / "index.js")[1]["evaluation"]["fvu"] is None


def test_other_folders_are_left_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(
        FileExistsError, match=r"`out` must be empty or hold a dashboard; .* Choose"
    ):
        write_dashboard(folder.parent / "run", torch.randn(30, 16), tmp_path)
    assert (tmp_path / "precious.txt").read_text() == "mine"
    with pytest.raises(ValueError, match=r"n_features\) = \(any, 16\); got \(30, 5\)"):
        write_dashboard(folder.parent / "run", torch.randn(30, 5), tmp_path / "new")
    assert not (tmp_path / "new").exists()


# Goes through the page as a reader would and leaves a list of what went wrong.
VISIT = """
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
  const numbers = () => all(".row").map((row) => Number(row.dataset.latent));
  const detail = () => document.getElementById("detail");
  const title = () => detail().querySelector("h2").textContent;

  addEventListener("load", async () => {
    await later(() => check(document.documentElement.dataset.ready === "yes", "the list is there"));
    check(innerWidth < 900 || title().startsWith("Latent"), "an unknown address is no empty page");
    await later(() => set("filter", "all", "change"));
    const status = document.getElementById("status").textContent;
    check(status.startsWith("N_LATENTS of"), "all are listed");
    check(numbers().length > 5 && numbers().length < 60, "only those in view are drawn");
    await later(() => set("sort", "density", "change"));
    const counts = all(".row .share").map((share) => share.textContent === "never fired" ? Infinity
      : Number(share.textContent.replace("1 in ", "").replaceAll(",", "")));
    check(counts.every((count, i) => !i || count >= counts[i - 1]), "sorted by frequency");
    await later(() => { document.getElementById("list").scrollTop = 1e9; });
    await later(() => {
      check(numbers().length > 5 && numbers().length < 60, "the end of the list is drawn");
      set("sort", "id", "change");
    });
    check(numbers().every((n, i) => n === i), "sorted by number");
    await later(() => all(".row")[2].click());
    await later(() => {
      check(title() === "Latent 2", "a latent is opened");
      check(location.hash === "#latent-2", "the address names it");
      check(document.activeElement === detail(), "the focus goes to it");
      const link = detail().querySelector(".neighbor-of");
      document.body.dataset.neighbor = link.dataset.latent;
      link.click();
    });
    await later(() => {
      check(title() === "Latent " + document.body.dataset.neighbor, "a neighbor is followed");
      press(detail(), "Escape");
      check(document.activeElement.id === "list", "Escape leads back");
      press(document.activeElement, "ArrowDown");
    });
    press(document.body, "/");
    check(document.activeElement.id === "search", "/ leads to the search");
    if (HAS_TEXT) {
      await later(() => set("search", "kingdom", "input"), 100);
      await later(() => {
        check(numbers().length > 0, "a word is found");
        all(".row")[0].click();
      });
      await later(() => {
        check(detail().textContent.includes("kingdom"), "the latent holds the word");
        check(detail().querySelector("mark") !== null, "the word is marked");
        const token = detail().querySelector(".token.peak");
        check(Number(token.dataset.value) > 0, "tokens have values");
        token.dispatchEvent(new Event("pointerover", { bubbles: true }));
        check(!document.getElementById("tip").hidden, "the value is shown");
        check(detail().querySelector("svg rect") !== null, "there is a histogram");
        set("search", "window.hacked", "input");
      });
      await later(() => {
        check(numbers().length > 0, "odd tokens are found as text");
        all(".row")[0].click();
      });
      await later(() => {
        check(detail().textContent.includes("<img src=x"), "odd tokens are shown as text");
        check(window.hacked === undefined && !document.querySelector("img"), "and nothing else");
      });
    }
    await later(() => set("search", "17", "input"));
    await later(() => {
      check(numbers()[0] === 17, "a number is found");
      press(document.getElementById("search"), "Enter");
    });
    await later(() => set("search", "no such text", "input"));
    await later(() => check(numbers().length === 0 && all(".none").length === 1, "nothing found"));
    check(document.documentElement.scrollWidth <= innerWidth, "nothing is too wide");
    check(innerWidth === WIDTH, "the page is as wide as it should be");
    const shards = all("script").filter((s) => s.src.includes("latents-")).length;
    check(shards >= 1 && shards <= 8, "only what was opened was read");
    parent.postMessage(JSON.stringify(wrong), "*");
  });
})();
"""

# A window cannot be as narrow as a phone, a frame can.
FRAME = """<!doctype html><body>
<iframe src="visited.html#latent-99999999" width="WIDTH" height="900" frameborder="0"></iframe>
<script>
addEventListener("message", (event) => { document.body.dataset.wrong = event.data; });
</script></body>"""


def visit(site: Path, width: int, n_latents: str, has_text: bool, profile: Path) -> list[str]:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser is installed here: none of {', '.join(BROWSERS)}")
    script = VISIT.replace("WIDTH", str(width)).replace("N_LATENTS", n_latents)
    (site / "visit.js").write_text(script.replace("HAS_TEXT", "true" if has_text else "false"))
    page = (site / "index.html").read_text()
    visited = page.replace("</body>", '<script src="visit.js"></script></body>')
    (site / "visited.html").write_text(visited)
    (site / "frame.html").write_text(FRAME.replace("WIDTH", str(width)))
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
        "--disable-background-networking --disable-component-update --virtual-time-budget=40000 "
        f"--user-data-dir={profile} --window-size=1600,1000 --dump-dom"
    )
    done = subprocess.run(
        [browser, *flags.split(), (site / "frame.html").as_uri()],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    found = re.search(r'data-wrong="(.*?)"', done.stdout)
    assert found, f"the visit did not end: {done.stderr[-1000:]}"
    return json.loads(found[1].replace("&quot;", '"'))


@pytest.mark.parametrize("width", [1440, 390])
def test_a_browser_walks_through_it(folder: Path, tmp_path: Path, width: int) -> None:
    site = tmp_path / "site"
    shutil.copytree(folder, site)
    assert visit(site, width, "300", True, tmp_path / "profile") == []


def test_a_browser_opens_many_latents(tmp_path: Path) -> None:
    sae.save(sae.TopK(n_features=8, n_latents=16_384, k=4, seed=0), tmp_path / "run")
    page = write_dashboard(
        tmp_path / "run", torch.randn(500, 8), tmp_path / "site", neuronpedia=False
    )
    assert visit(page.parent, 1440, "16,384", False, tmp_path / "profile") == []
