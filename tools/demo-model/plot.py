"""One small picture of a stage's loss curve from its logs."""
import argparse
import json

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def smooth(values, keep=0.85):
    out, state = [], None
    for value in values:
        state = value if state is None else keep * state + (1 - keep) * value
        out.append(state)
    return out


def read(logs):
    rows, before = [], 0
    for log in logs:
        part = [row for row in map(json.loads, open(log)) if "loss" in row]
        rows += [{**row, "tokens": row["tokens"] + before} for row in part]
        before += part[-1]["tokens"]
    return rows


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("logs", nargs="+", help="parts of one stage, in order")
    parser.add_argument("--title", default="")
    args = parser.parse_args()
    rows = read(args.logs)
    x = [row["tokens"] / 1e6 for row in rows]
    figure, axis = plt.subplots(figsize=(6, 3.2), dpi=100)
    names = {"loss": "next token", "draft": "draft layer"}
    if "draft" not in rows[0]:
        names = {"loss": "all of the loss", "nll": "right answer only"}
    for (key, label), colour in zip(names.items(), ("#1f5f8b", "#d08a2e")):
        values = [row[key] for row in rows]
        axis.plot(x, values, color=colour, alpha=0.2, linewidth=0.8)
        axis.plot(x, smooth(values), color=colour, label=label)
    axis.set_xlabel("million tokens")
    axis.set_ylabel("loss (nats)")
    axis.set_title(args.title, fontsize=10)
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.25)
    axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(args.out, metadata={"Software": None})


if __name__ == "__main__":
    main()
