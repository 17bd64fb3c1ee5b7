"""Patches of one image put back in order (T0): the jigsaw puzzle that `patch_shuffle` makes of every image.

Source: T. Chuman, H. Kiya (arXiv 2202.00806) for the attack; the seams and their assembly are those of
block_pixel_shuffle.py. Patches hold their pixels in plain sight, so that nothing is left to find but the order.
"""

from __future__ import annotations

from coordinator.adversary.contract import Ciphertexts, Fit, Recovered
from coordinator.adversary.puzzle.assembly import LEAST_SEAM_FIT, SEAM_FIT, assemble, places_of, seam_fit
from coordinator.adversary.puzzle.seams import block_sides, seam_costs
from coordinator.adversary.recover.block_pixel_shuffle import MOST_BLOCKS
from coordinator.adversary.recover.not_sought import unmoved
from coordinator.adversary.time_budget import TimeLeft
from crypto.arrays import Rows
from crypto.kernels.blocks import block_pixels
from crypto.kernels.table import Table


def recover(pool: Ciphertexts, pool_rows: Rows, time_left: TimeLeft) -> Recovered | None:
    """Recover K1 int64 [N] of the first of these rows.

    Args:
        pool: Sealed images, each with an order of its own.
        pool_rows: int64 [1], the row.
        time_left: Asked between steps. When it returns False, the best order so far is returned.

    Returns:
        The order; None if the image is of one colour.
    """
    spec, images = pool.spec, pool.images(pool_rows[:1])
    if images.min() == images.max():
        return None
    block, (height, width, _) = spec.block, spec.image_shape
    if spec.blocks > MOST_BLOCKS:
        note = f"not sought: {spec.blocks} patches, at most {MOST_BLOCKS}"
        return unmoved(spec.image_shape, block, note)
    sides = block_sides(images, block_pixels(height, width, block), block)
    across, down = seam_costs(iter(sides), spec.blocks, time_left)
    grid = assemble(across, down, spec.grid, time_left)
    k1 = places_of(grid)
    table = Table(spec.image_shape, (block, block), k1)
    fits = (Fit(seam_fit(grid, across, down), LEAST_SEAM_FIT, SEAM_FIT),) if spec.blocks > 1 else ()
    return Recovered(table.inverse(), {"K1": k1}, () if time_left() else ("truncated: out of time",), fits)
