"""Tokens of `neuracrypt` by place: which token of every image is of which place, with no image known.

1. the order of the tokens is undone: position embeddings keep tokens of one place together, so that each image has
   one token in each of N clusters;
2. distances between the tokens of two images depend little on the weights, because wide random networks agree on
   them (their kernel; a design flaw, not a chance). So networks of the adversary's own say how far plain images are
   apart at each place;
3. clusters are matched with places: where two places lie close to each other in the picture, distances at both grow
   together. How much they do so, over all pairs of images, is a correlation for each pair of places that needs no
   matching of images: not even the same images. The correlations, and the distributions of the distances, say which
   cluster is which place. Clusters are matched by those that are surest, then by more and more of
   them, and swapped while that helps. Pictures of a kind that is its own mirror image may come out mirrored.

Source: our own; the design flaw is that of arXiv 2108.07256.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import norm, rankdata

from coordinator.adversary.time_budget import OutOfTimeError, TimeLeft, always, require_time
from crypto.arrays import AnyArray, Float32Array, Float64Array, Images, Int64Array
from crypto.encoder_cipher import EncoderNetwork
from crypto.kernels.blocks import to_blocks
from crypto.schemes.neuracrypt import DEVIATION, MEAN, NeuraCrypt

#: Most patches of an image: to put the tokens of one image in order takes their number's third power.
MOST_PATCHES = 1024
#: Networks of the adversary's own, and their inner width at most. Set once; not tuned further.
NETWORKS, _WIDTH = 4, 256
#: Pairs of images whose distances decide which cluster is which place, and how many distances at most. Set once.
_PAIRS, _MOST_DISTANCES = 20_000, 20_000_000
#: What the distributions of distances weigh in that, beside how they grow together. Of several, the result is taken
#: under which distances grow together most alike. Phantoms are nearly mirror images of themselves: there one weight
#: found the mirror and another the place.
_WEIGHTS = (0.0, 0.5, 1.0, 2.0)
#: Quantiles by which distributions of distances are compared. Set once.
QUANTILES = 30
#: Steps of the clustering, and of the growing. It ends earlier once nothing changes.
_CLUSTER_STEPS, _GROW_STEPS = 8, 40
#: Share of the clusters that decide at first, and by how much it grows. Set once.
_FIRST_ANCHORS, _GROWTH = 0.1, 1.25
#: Beginnings of the search, in noise but for the first, and how many times N³ they may make.
_STARTS, _START_NOISE, _START_WORK = 16, 0.3, 1e8
#: Multiply-adds that swaps may cost, and the least gain of one.
_SWAP_WORK, _LEAST_GAIN = 2e10, 1e-9


def cluster_tokens(tokens: Float32Array, time_left: TimeLeft) -> tuple[Float32Array, Float64Array]:
    """Return tokens [n, N, V] with those of one place at one number, and the mean token of each place [N, V].

    The order of the places is not known. The tokens of the first image begin the clusters.

    Raises:
        OutOfTimeError: If the time is used up before every image was clustered once.
    """
    centres, ordered = tokens[0].astype(np.float64), np.empty_like(tokens)
    for step in range(_CLUSTER_STEPS):
        if step and not time_left():
            break
        before = ordered.copy()
        try:
            ordered = to_clusters(tokens, centres, time_left)
        except OutOfTimeError:
            if not step:
                raise
            break
        centres = ordered.mean(0, dtype=np.float64)
        if np.array_equal(before, ordered):
            break
    return ordered, centres


def to_clusters(tokens: Float32Array, centres: Float64Array, time_left: TimeLeft = always) -> Float32Array:
    """Return tokens [n, N, V] in the order of the clusters whose mean tokens [N, V] these are, one in each.

    Raises:
        OutOfTimeError: If the time is used up.
    """
    ordered = np.empty_like(tokens)
    for i, image in enumerate(tokens):
        require_time(time_left)
        costs = (centres**2).sum(1) - 2 * image @ centres.T
        token, cluster = linear_sum_assignment(costs)
        ordered[i, cluster] = image[token]
    return ordered


def width_of(algorithm: NeuraCrypt) -> int:
    """Return the inner width of the adversary's own networks."""
    return min(_WIDTH, algorithm.width)


def own_vectors(
    plain: Images, algorithm: NeuraCrypt, rng: np.random.Generator, time_left: TimeLeft
) -> Float32Array:
    """Return what a random network of the adversary's own makes of images before its last layer, [n, N, W].

    Raises:
        OutOfTimeError: If the time is used up.
    """
    width = width_of(algorithm)

    def layer(inputs: int, outputs: int) -> tuple[Float32Array, Float32Array]:
        drawn = (rng.uniform(-1, 1, (inputs + 1, outputs)) / np.sqrt(inputs)).astype(np.float32)
        return drawn[:-1], drawn[-1]

    inner = [layer(width, width) for _ in range(algorithm.depth)]
    network = EncoderNetwork(
        embed=layer(algorithm.values, width),
        layers=(
            np.array([w for w, _ in inner], np.float32).reshape(-1, width, width),
            np.array([b for _, b in inner], np.float32).reshape(-1, width),
        ),
        positions=rng.standard_normal((algorithm.spec.blocks, width)).astype(np.float32),
        mix=layer(width, 1),
        mean=MEAN,
        deviation=DEVIATION,
    )
    patches = to_blocks(plain, algorithm.spec.block)
    vectors = np.empty((*patches.shape[:2], width), np.float32)
    for i, image in enumerate(patches):
        require_time(time_left)
        vectors[i] = network.vectors(image.reshape(len(image), -1))
    return vectors


def match_places(
    tokens: Float32Array, vectors: Sequence[Float32Array], rng: np.random.Generator, time_left: TimeLeft
) -> Int64Array:
    """Return the place of each cluster, int64 [N], with no image matched.

    Out of time, it returns the best of the starts that it made, or what the first one had come to.

    Args:
        tokens: float32 [r, N, V], the tokens by cluster.
        vectors: float32 [n, N, W] each, what networks of one's own make of the candidates.
        rng: Draws which images are looked at, of many.
        time_left: Whether there is time for another step.
    """
    count = tokens.shape[1]
    if count < 2:
        return np.zeros(count, np.int64)
    near, own = (_pair_distances(parts, rng) for parts in ((tokens,), vectors))
    own *= np.float32(np.median(near) / max(float(np.median(own)), 1e-12))
    here, there = _joint_ranks(near), _joint_ranks(own)
    alone = _by_deviation(_apart(profiles(near), profiles(own)))
    alone += _by_deviation(_apart(profiles(here), profiles(there)))
    best, most = np.arange(count), -np.inf
    for start in range(int(np.clip(_START_WORK / count**3, len(_WEIGHTS), _STARTS))):
        if start and not time_left():
            break
        # The first starts are as measured; the others begin with something near it.
        noise = _START_NOISE * rng.standard_normal(alone.shape) * (start >= len(_WEIGHTS))
        grown = _grow_places(here, there, alone + noise, _WEIGHTS[start % len(_WEIGHTS)], time_left)
        places = _swap_places(here, there, grown)
        score = float((here * there[places][:, places]).sum())
        if score > most:
            best, most = places, score
    return best


def _pair_distances(parts: Sequence[Float32Array], rng: np.random.Generator) -> Float32Array:
    """Return how far the two images of random pairs are apart at each place, float32 [N, pairs]."""
    images, count, _ = parts[0].shape
    pairs = min(_PAIRS, _MOST_DISTANCES // count)
    one = rng.integers(0, images, pairs)
    other = (one + rng.integers(1, max(images, 2), pairs)) % images
    distances = np.empty((count, pairs), np.float32)
    for place in range(count):
        squares = sum(((part[one, place] - part[other, place]) ** 2).sum(1) for part in parts)
        distances[place] = np.sqrt(squares / np.float32(len(parts)))
    return distances


def _grow_places(
    here: Float64Array, there: Float64Array, alone: Float64Array, weight: float, time_left: TimeLeft
) -> Int64Array:
    """Return the place of each cluster, int64 [N], by the ranks [N, N] that it has with more and more others.

    Args:
        here: Ranks of clusters.
        there: Ranks of places.
        alone: [N, N], how far apart a cluster and a place are by themselves, which decides at first.
        weight: What this counts later on, in units of the ranks.
        time_left: Whether there is time for another step.
    """
    places: Int64Array = linear_sum_assignment(alone)[1].astype(np.int64)
    costs, share = alone - alone.min() + 1, _FIRST_ANCHORS
    for _ in range(_GROW_STEPS):
        if not time_left():
            break
        order = np.argsort(-margins(costs, places), kind="stable")
        anchors = order[: max(3, int(share * len(places)))]
        costs = weight * _by_deviation(alone) + _by_deviation(
            _apart(here[:, anchors], there[:, places[anchors]])
        )
        costs -= costs.min() - 1
        grown = linear_sum_assignment(costs)[1].astype(np.int64)
        if share >= 1 and np.array_equal(grown, places):
            break
        places, share = grown, min(1.0, share * _GROWTH)
    return places


def _swap_places(here: Float64Array, there: Float64Array, places: Int64Array) -> Int64Array:
    """Return the places [N] after the swaps of two that make the ranks [N, N] agree better, the best one first."""
    places, count = places.copy(), len(places)
    for _ in range(int(np.clip(_SWAP_WORK / count**3, 1, 10 * count))):
        carried = there[places][:, places]
        products = here @ carried
        own = np.diag(products)
        gain = products + products.T - own[:, None] - own + 2 * here * carried
        one, other = np.unravel_index(gain.argmax(), gain.shape)
        if gain[one, other] <= _LEAST_GAIN:
            break
        places[[one, other]] = places[[other, one]]
    return places


def _joint_ranks(distances: Float32Array) -> Float64Array:
    """Return how much the distances [N, pairs] at two places grow together, as ranks of normal deviates [N, N]."""
    with np.errstate(invalid="ignore"):  # a place that never varies correlates with none
        joint = np.nan_to_num(np.corrcoef(distances.astype(np.float64)))
    pairs = np.triu_indices(len(joint), 1)
    ranks = np.zeros_like(joint)
    ranks[pairs] = norm.ppf((rankdata(joint[pairs]) - 0.5) / len(pairs[0]))
    return np.asarray(ranks + ranks.T)


def _apart(here: AnyArray, there: AnyArray) -> Float64Array:
    """Return how far rows [N, m] and rows [N, m] are apart on average, float64 [N, N]."""
    apart = np.zeros((len(here), len(there)))
    for ours, theirs in zip(here.T, there.T, strict=True):
        apart += np.abs(ours[:, None] - theirs)
    return np.asarray(apart / here.shape[1])


def _by_deviation(values: Float64Array) -> Float64Array:
    """Return values in units of their standard deviation."""
    return np.asarray(values / max(float(values.std()), 1e-12))


def distances_at(parts: Sequence[Float32Array], place: int) -> Float32Array:
    """Return how far images are apart at one place, float32 [n, n]: the root of the mean over `parts` [n, N, d]."""
    squares = sum(squared_distances(part[:, place]) for part in parts)
    result: Float32Array = np.sqrt(squares / np.float32(len(parts)))
    return result


def squared_distances(vectors: Float32Array) -> Float32Array:
    """Return the squared distances of vectors [n, d], float32 [n, n]."""
    exact = vectors.astype(np.float64)
    exact -= exact.mean(0)
    squares = (exact**2).sum(1)
    distances = np.maximum(squares[:, None] + squares - 2 * exact @ exact.T, 0.0)
    np.fill_diagonal(distances, 0.0)
    result: Float32Array = distances.astype(np.float32)
    return result


def profiles(distances: AnyArray) -> AnyArray:
    """Return the quantiles of every row of [n, m]: [n, QUANTILES]."""
    ranks = np.linspace(0, distances.shape[1] - 1, QUANTILES + 2)[1:-1].astype(np.int64)
    profiles: AnyArray = np.sort(distances, axis=1)[:, ranks]
    return profiles


def margins(costs: Float64Array, matched: Int64Array) -> Float64Array:
    """Return how much dearer each ciphertext's next best image is than the one it is matched with, as a share."""
    every = np.arange(len(matched))
    chosen = costs[every, matched]
    others = costs.copy()
    others[every, matched] = np.inf
    return np.asarray((others.min(1) - chosen) / np.maximum(chosen, 1e-12))


def standardised(distances: Float32Array) -> Float64Array:
    """Return the distances [k, n, n] of pairs as rows [k, n·n] of mean 0 and deviation 1."""
    rows = distances.reshape(len(distances), -1).astype(np.float64)
    rows -= rows.mean(1, keepdims=True)
    return np.asarray(rows / np.maximum(rows.std(1, keepdims=True), 1e-12))
