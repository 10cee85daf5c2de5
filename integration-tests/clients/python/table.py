"""table.py FOLDER NAME...: prints the JSON lines of each NAME as a table. Ends with 1 unless every verdict is ok."""

import json
import pathlib
import sys

COLUMNS = ("client", "version", "create", "list", "describe", "produce", "consume", "verdict")


def rows_of(folder, name):
    status = int((folder / f"{name}.status").read_text())
    lines = [line for line in (folder / f"{name}.json").read_text().splitlines() if line.startswith("{")]
    rows = [json.loads(line) for line in lines]
    if not rows or (status != 0 and not any(row["detail"] for row in rows)):
        detail = "no end within the time limit" if status in (124, 137) else f"exit code {status}"
        rows.append({"client": name, "detail": detail})
    for row in rows:
        row["verdict"] = f"FAILED {row['detail']}"[:100] if row["detail"] else "ok"
    return rows


def main(folder, names):
    rows = [row for name in names for row in rows_of(folder, name)]
    table = [COLUMNS] + [tuple(str(row.get(c, "-")) for c in COLUMNS) for row in rows]
    widths = [max(len(line[i]) for line in table) for i in range(len(COLUMNS))]
    for line in table:
        print(" | ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())
    failed = sum(row["verdict"] != "ok" for row in rows)
    print(f"\n{len(rows) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1]), sys.argv[2:]))
