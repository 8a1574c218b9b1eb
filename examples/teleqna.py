"""Write teleqna_train.jsonl and teleqna_test.jsonl beside this file: question, explanation, source.

TeleQnA (Maatouk et al., 2023, MIT) is distributed as a zip with a published password, to keep its text out of training
crawls; so the text is decrypted here and kept out of version control. The source of a question is the tag at its end
("[3GPP Release 18]"), or its category where it has none; sources with fewer than 20 questions are left out.

    python examples/teleqna.py TeleQnA.zip          (needs pyzipper)
"""

import hashlib
import json
import re
import sys
from collections import Counter
from pathlib import Path

PASSWORD = b"teleqnadataset"  # printed in the data set's own README
LEAST, HELD_OUT = 20, 10  # questions per source; one question in ten is held out


def questions(path: str) -> list[dict]:
    import pyzipper

    with pyzipper.AESZipFile(path) as archive:
        archive.setpassword(PASSWORD)
        return list(json.loads(archive.read(archive.namelist()[0])).values())


def row(question: dict) -> dict:
    text = question["question"].strip()
    tag = re.search(r"\[([^\[\]]+)\]$", text)
    return {
        "prompt": text[: tag.start()].strip() if tag else text,
        "response": question["explanation"].strip(),
        "source": tag.group(1) if tag else question["category"],
    }


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    rows = [row(question) for question in questions(sys.argv[1])]
    rows = [r for r in rows if r["response"]]
    many = {name for name, count in Counter(r["source"] for r in rows).items() if count >= LEAST}
    halves: dict[str, list[dict]] = {"train": [], "test": []}
    for r in rows:
        if r["source"] in many:
            held = int(hashlib.sha256(r["prompt"].encode()).hexdigest(), 16) % HELD_OUT == 0
            halves["test" if held else "train"].append(r)
    for name, part in halves.items():
        path = Path(__file__).parent / f"teleqna_{name}.jsonl"
        path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in part), encoding="utf-8")
        print(f"{path}: {len(part)} questions from {len({r['source'] for r in part})} sources")


if __name__ == "__main__":
    main()
