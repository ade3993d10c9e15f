from checkpoint_doctor import Severity, Tensor, rule


@rule("ACM001", "huge-embedding", Severity.WARNING, on=Tensor)
def huge_embedding(tensor: Tensor, *, limit: float = 10.0):
    """An embedding value is far larger than any we ever trained.

    Why it matters:
        It drowns the other features of its token.
    When it is normal:
        In models that scale embeddings down after the lookup.
    What to do:
        Look at the tokens of these rows; lower their learning rate.
    Options:
        limit: The magnitude of an entry above which it is reported; our own models stay below 4.
    References:
        Our own training runs.
    """
    if "embed" in tensor.name and tensor.statistics.absmax > limit:
        yield huge_embedding.finding(f"the largest value is {tensor.statistics.absmax:.1f}, above {limit}", tensor)
