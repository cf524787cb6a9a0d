"""Time linear layers' float32 products by oneDNN against torch's own, and hold both against float64."""

from __future__ import annotations

from functools import partial

import timing
import torch
import torch.nn.functional as F

from rankbench.models import float32

SHAPES = ((384, 384), (384, 1536), (1536, 384))  # MiniLM's, (in, out)
STOCK, OWN = "torch's own", "oneDNN"


def main() -> None:
    parser = timing.arguments(__doc__, repeats=21)
    parser.add_argument("--tokens", type=int, default=768, help="rows of a product")
    asked = parser.parse_args()
    if float32.library() != "oneDNN":
        raise SystemExit("on this machine torch's own products are taken: nothing to compare")

    rows, figures = [], {}
    for inner, outer in SHAPES:
        torch.manual_seed(0)
        x, w, g = torch.randn(asked.tokens, inner), torch.randn(outer, inner), torch.randn(asked.tokens, outer)
        for name, (a, b) in {"Y": (x, w), "dX": (g, w.T), "dW": (g.T, x.T)}.items():
            exact = F.linear(a.double(), b.double())
            sides = {STOCK: partial(F.linear, a, b), OWN: partial(float32.linear, a, b)}
            errors = {side: float((call() - exact).abs().max() / exact.abs().max()) for side, call in sides.items()}
            seconds = timing.alternate({k: lambda _, v=v: v for k, v in sides.items()}, asked.repeats, warmup=2)
            ratio = timing.ratio(seconds[OWN], seconds[STOCK])
            key = f"{name}, {inner} to {outer}"
            speed = {k: 2e-9 * asked.tokens * inner * outer / sorted(v)[len(v) // 2] for k, v in seconds.items()}
            rows.append(
                [key, *(f"{speed[k]:.0f}" for k in sides), f"{ratio:.3f}", *(f"{e:.1e}" for e in errors.values())]
            )
            figures[key] = {"seconds": seconds, "ratio": ratio, "error": errors}
    columns = [f"{asked.tokens} tokens", STOCK, OWN, "time, of torch's", "error of torch's", "of oneDNN's"]
    text = f"billions of operations a second; the largest error, of the largest number\n\n{timing.table(columns, rows)}"
    timing.report(asked, text, {"products": figures}, ("fp32", "as the sides say"))


if __name__ == "__main__":
    main()
