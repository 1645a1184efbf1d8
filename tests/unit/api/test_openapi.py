from __future__ import annotations

import json
import os
from pathlib import Path

from harness import TABLE

from blixard.api.openapi import openapi
from blixard.cluster.kind import KindTable

GOLDEN = Path(__file__).parents[2] / "golden" / "openapi.json"


def test_document_is_the_golden_one():
    text = json.dumps(openapi(KindTable(TABLE[:-1]), (), "0"), indent=1, sort_keys=True) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(text)
    assert json.loads(GOLDEN.read_text()) == json.loads(text)


def test_every_reference_has_its_schema():
    document = openapi(KindTable(TABLE), (), "0")
    known = document["components"]["schemas"]
    text = json.dumps(document)
    names = {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}
    assert names <= set(known)
