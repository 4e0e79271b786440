"""The true posterior of portraits, given a crop of their image.

A crop tells some attributes exactly and others in part: the edge of the hair may exclude a bald head, and leave short
and curly hair possible. `possible_categories` finds the categories that a crop leaves possible: with the attribute
changed to that category, and nothing else changed, the crop shows the same pixels. The posterior is the program's joint
distribution, restricted to the possible categories of all attributes (`posterior_probabilities`). `sample_posterior`
draws whole portraits from it.

Two approximations. A nuisance parameter that changes the crop is taken as known exactly. Two changes that cancel in
every pixel are not found, since only single changes are tried.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fwdiff_lite.observations import to_device
from fwdiff_lite.problems.gan_inversion.portraits import (
    ATTRIBUTE_NAMES,
    ATTRIBUTES,
    CONDITIONAL_PROBABILITIES,
    NUISANCE_RANGES,
    Portraits,
    render,
)

MIN_DIFFERENCE = 0.1  # the smallest change of a pixel that counts, in any colour channel of [-1, 1]
CHUNK_SIZE = 64  # contexts whose joint probabilities are computed at once


def joint_probability_table() -> Float[Tensor, "*categories"]:
    """The probability of every combination of attributes: one axis each, in ATTRIBUTE_NAMES' order, in float64."""
    table = torch.ones((), dtype=torch.float64)
    for name in ATTRIBUTE_NAMES:
        parents, probabilities = CONDITIONAL_PROBABILITIES[name]
        axes = [*(ATTRIBUTE_NAMES.index(parent) for parent in parents), ATTRIBUTE_NAMES.index(name)]
        shape = [len(categories) if i in axes else 1 for i, categories in enumerate(ATTRIBUTES.values())]
        # parents come before their children in ATTRIBUTE_NAMES, so the axes are in order
        table = table * torch.tensor(probabilities, dtype=torch.float64).reshape(shape)
    return table


def all_combinations() -> Int[Tensor, "n a"]:
    """Every combination of attributes, in the order of the flattened `joint_probability_table`."""
    return torch.cartesian_prod(*(torch.arange(len(categories)) for categories in ATTRIBUTES.values()))


def _shows_the_same(
    changed: Float[Tensor, "b 3 h w"], images: Float[Tensor, "b 3 h w"], masks: Bool[Tensor, "b h w"]
) -> Bool[Tensor, "b"]:
    """Whether no pixel inside of the mask differs by more than MIN_DIFFERENCE."""
    return ~(((changed - images).abs().amax(1) > MIN_DIFFERENCE) & masks).flatten(1).any(1)


def possible_categories(
    people: Portraits, masks: Bool[Tensor, "b {side} {side}"], side: int = 64
) -> dict[str, Bool[Tensor, "b _"]]:
    """For each attribute, the categories that a crop leaves possible; the portrait's own one always is.

    masks: True inside of the crop
    """
    images, possible = render(people, side), {}
    for name, categories in ATTRIBUTES.items():
        changed = [render(people.with_attribute(name, k), side) for k in range(len(categories))]
        possible[name] = torch.stack([_shows_the_same(x, images, masks) for x in changed], 1)
    return possible


def observed_attributes(possible: dict[str, Bool[Tensor, "b _"]]) -> Bool[Tensor, "b a"]:
    """Which attributes a crop tells: one category alone is possible."""
    return torch.stack([x.sum(1) == 1 for x in possible.values()], 1)


def _joint_posterior(possible: dict[str, Bool[Tensor, "b _"]]) -> Float[Tensor, "b n"]:
    """The posterior probability of every combination, in the order of `all_combinations`."""
    p = joint_probability_table().flatten().expand(len(possible[ATTRIBUTE_NAMES[0]]), -1)
    for mask, categories in zip(possible.values(), all_combinations().T, strict=True):
        p = p * mask.cpu()[:, categories]
    return p / p.sum(1, keepdim=True)


def posterior_probabilities(possible: dict[str, Bool[Tensor, "b _"]]) -> dict[str, Float[Tensor, "b _"]]:
    """For each attribute, the probabilities of its categories given the possible categories of all attributes.

    ValueError if an attribute has no possible category.
    """
    if impossible := [name for name, mask in possible.items() if not mask.any(1).all()]:
        raise ValueError(f"{impossible[0]} has no possible category in some portrait: give at least one in each")
    one_hots = [torch.eye(len(x), dtype=torch.float64) for x in ATTRIBUTES.values()]
    columns = [one_hot[categories] for one_hot, categories in zip(one_hots, all_combinations().T, strict=True)]
    chunks, count = [], len(possible[ATTRIBUTE_NAMES[0]])
    for rows in torch.arange(count).split(CHUNK_SIZE):
        joint = _joint_posterior({name: mask[rows.to(mask.device)] for name, mask in possible.items()})
        chunks.append([joint @ column for column in columns])
    return {name: torch.cat(parts) for name, parts in zip(ATTRIBUTE_NAMES, zip(*chunks, strict=True), strict=True)}


def hidden_nuisance(people: Portraits, masks: Bool[Tensor, "b {side} {side}"], side: int = 64) -> Bool[Tensor, "b s"]:
    """Which nuisance parameters a crop does not show: values all over their ranges leave its pixels.

    These values are the ends and the middle of a range. Both ends of a hue's range are the same colour.
    """
    images, hidden = render(people, side), []
    for i, (low, high) in enumerate(NUISANCE_RANGES.values()):
        is_hidden = torch.ones(len(people), dtype=torch.bool, device=images.device)
        for value in (low, (low + high) / 2, high):
            nuisance = people.nuisance.clone()
            nuisance[:, i] = value
            is_hidden &= _shows_the_same(render(Portraits(people.attributes, nuisance), side), images, masks)
        hidden.append(is_hidden)
    return torch.stack(hidden, 1)


def sample_posterior(
    people: Portraits,
    masks: Bool[Tensor, "b {side} {side}"],
    num_samples: int,
    generator: torch.Generator,
    side: int = 64,
    rounds: int = 8,
) -> tuple[Portraits, Bool[Tensor, "b k"]]:
    """Portraits drawn from the posterior given a crop: k for each portrait, those of one portrait in a row.

    Attributes come from the joint posterior; hidden nuisance parameters are drawn anew, the others are kept. A draw
    whose crop shows other pixels is drawn again, up to `rounds` times; if none fits, the portrait itself stands in.
    Returns the draws, and which of them fit.
    """
    possible, is_hidden = possible_categories(people, masks, side), hidden_nuisance(people, masks, side)
    images, device, fits = render(people, side), people.attributes.device, []
    attributes, nuisance = (x.repeat_interleave(num_samples, 0) for x in (people.attributes, people.nuisance))
    for contexts in torch.arange(len(people)).split(CHUNK_SIZE):
        joint = _joint_posterior({name: mask[contexts.to(device)] for name, mask in possible.items()})
        missing = torch.arange(len(contexts) * num_samples)  # the draws of this chunk that do not fit yet
        for _ in range(rounds):
            own = missing // num_samples
            rows, context = to_device(missing + contexts[0] * num_samples, device), to_device(contexts[own], device)
            proposal = _propose(people[context], joint[own], is_hidden[context], generator)
            fit = _shows_the_same(render(proposal, side), images[context], masks[context])
            attributes[rows[fit]], nuisance[rows[fit]] = proposal.attributes[fit], proposal.nuisance[fit]
            missing = missing[~fit.cpu()]
            if not len(missing):
                break
        fits.append(~torch.isin(torch.arange(len(contexts) * num_samples), missing))
    return Portraits(attributes, nuisance), torch.cat(fits).unflatten(0, (-1, num_samples))


def _propose(
    people: Portraits, joint: Float[Tensor, "b n"], is_hidden: Bool[Tensor, "b s"], generator: torch.Generator
) -> Portraits:
    """Attributes from the joint posterior; the nuisance parameters where `is_hidden` from their ranges."""
    device = people.attributes.device
    low, high = torch.tensor(list(NUISANCE_RANGES.values())).T
    chosen = torch.multinomial(joint, 1, generator=generator)[:, 0]
    nuisance = low + (high - low) * torch.rand(len(people), len(low), generator=generator)
    nuisance = torch.where(is_hidden, to_device(nuisance, device), people.nuisance)
    return Portraits(to_device(all_combinations()[chosen], device), nuisance)
