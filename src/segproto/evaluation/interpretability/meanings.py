"""One sentence a metric: what the figure means."""

MEANINGS = {
    "consistency": "Share of prototypes that are active on one and the same part of their class in most "
    "images: higher is better, 1 means that every prototype stands for one part.",
    "stability": "Share of prototypes whose active parts stay the same when noise is added to the image: "
    "higher is better.",
    "sparsity": "Mean number of prototypes that bear on a class's logit at readout weights above a "
    "threshold: lower means fewer patches to look at to understand a class.",
    "group_overlap": "IoU of the places where the groups of a class are active: lower means that its groups "
    "see different things.",
    "prototype_overlap": "IoU of the places where the prototypes of a class are active: lower means that they see "
    "different things.",
    "components": "Number and area of the connected places where a prototype is active, a scale: fewer and "
    "larger ones at coarser scales show that the scales differ.",
    "equivariance": "Share of classes with prototypes of different scales that see the same thing in images "
    "of different size: such prototypes repeat one another.",
    "purity": "Of the images a prototype answers to most, the share where it sees its most frequent "
    "part: 1 means always the same part.",
    "pointing": "Share of (image, prototype) whose strongest cell lies in the prototype's class: higher is better.",
    "coverage": "Share of a class's pixels where at least one of its prototypes is strongly active: "
    "higher means that the prototypes share the class out instead of all looking at one "
    "place.",
    "health": "Share of prototypes that are never the strongest of their class: dead ones explain nothing.",
    "distances": "Mean distance between the prototypes of a class and scale: near 0 means that they are copies.",
    "neighbours": "Share of the k strongest prototypes at a random cell that belong to the cell's class: 1 "
    "means that evidence never comes from other classes.",
    "nearest": "Share of a class's cells whose strongest prototype is of that class, mean over classes.",
    "faithfulness": "By how much deleting what the most used prototypes point at lowers the class's "
    "probability further than deleting random regions of equal area: above 0 means that the "
    "explanation points at what the model uses.",
    "sanity": "Rank correlation of explanations before and after the whole model was randomised: near 0 "
    "means that explanations depend on what was learned.",
    "completeness": "Largest relative error of a logit rebuilt from its contributions: below 1e-4, "
    "explanations are exact.",
    "freshness": "Share of prototypes that still are the feature of the training patch they claim to be.",
    "cost": "Mean absolute readout weight, numbers stored beyond a plain classifier, and speed: what "
    "explanations cost.",
}

# Why a metric that was measured may hold ``null`` in its details (a class, prototype, quantile or region).
UNKNOWN = {
    "consistency": "the class has no parts in the images seen, or none of its prototypes is in use",
    "stability": "the class has no parts in the images seen, or none of its prototypes is in use",
    "group_overlap": "the class has fewer than two groups, or no image shows it",
    "prototype_overlap": "the class has fewer than two prototypes in use, or no image shows it",
    "components": "no prototype of this scale is in use, or none is active anywhere",
    "equivariance": "the class has no prototypes of two scales, or no image shows it",
    "purity": "the prototype is not in use, or no image shows a part of its class",
    "pointing": "the prototype is not in use, or no image was looked at",
    "coverage": "no prototype of the class is in use, or no image shows it",
    "health": "no prototype of the class is in use, or no image shows it; a gap needs provenance",
    "distances": "the class has no two prototypes of one scale",
    "neighbours": "fewer prototypes are in use than k",
    "nearest": "no image shows the class, or none of its prototypes is in use",
    "faithfulness": "random regions have no gain: the others are compared with them",
    "sanity": "nothing varies there, so there is no correlation",
    "completeness": "no such logit was looked at",
    "freshness": "the patch of the prototype is unknown, or was not computed anew",
    "cost": "the paper's count of parameters in use is for prototypes with a readout",
    "sparsity": "not defined for this kind of head",
}
