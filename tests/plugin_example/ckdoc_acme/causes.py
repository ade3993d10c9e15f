from checkpoint_doctor import Certainty, Checkpoint, Prognosis, Symptoms, cause
from ckdoc_acme.embeddings import huge_embedding


@cause("tokens-without-decay", Prognosis.POINTLESS)
def tokens_without_decay(checkpoint: Checkpoint, symptoms: Symptoms):
    """Embeddings grow without limit, because nothing shrinks the rows of frequent tokens.

    How we know:
        Embeddings are huge, and no optimizer in the file has a weight decay.
    What else it could be:
        A learning rate that is too high for the whole model.
    What to do:
        Put the embeddings into a parameter group with weight decay.
    References:
        Our own training runs.
    """
    found = symptoms.of(huge_embedding.code)
    decays = [group.options.get("weight_decay") for each in checkpoint.optimizers for group in each.groups]
    if found and not any(decays):
        yield tokens_without_decay.claim(found, consequences=symptoms.of("VAL002"), certainty=Certainty.LIKELY)
