import json
import pathlib
import sys

for f in sys.argv[1:]:
    lines = [line for line in pathlib.Path(f).read_text().splitlines() if "energy_over_true_60" in line and "{" in line]
    if not lines:
        continue
    m = json.loads(lines[-1][lines[-1].index("{"):])
    print(f)
    for key in ("energy_over_true", "sharpness_ratio", "spread_skill"):
        for p in ("", "novel_"):
            print(p + key, *(f"{m[f'{p}{key}_{a}']:.3f}" for a in (60, 90, 120, 150, 180)))
    print({k: round(v, 3) for k, v in m.items() if "factor" in k and not k.endswith(("low", "high"))})
