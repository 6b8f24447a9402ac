"""Render one organised scan into five views, and save their colours side by side.

python examples/render_one_scan.py mvad-data/raw/mvtec3d/gear/train/good/xyz/000.tiff views.png
"""

import sys

import numpy as np
from PIL import Image

import mvad

scan, target = sys.argv[1:]
views = mvad.render_scan(scan, options=mvad.RenderOptions(backend="cpu"))
Image.fromarray(np.concatenate(list(views.rgb), axis=1)).save(target)
seen = [f"{(source >= 0).mean():.0%}" for source in views.source]
print(f"{target}: {len(views.rgb)} views; the object covers {', '.join(seen)} of them")
