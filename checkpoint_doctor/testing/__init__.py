"""Helps to test plugins: builds checkpoints in memory, and checks that a plugin satisfies its protocol.

May import everything except ``cli`` and the shelves. The checks raise ``AssertionError``
with everything that is wrong, so a test needs one line::

    from checkpoint_doctor.testing import build_checkpoint, check_rule, findings_of

    def test_my_rule():
        check_rule(my_rule)
        checkpoint = build_checkpoint({"token_embedding.weight": np.full((4, 2), 99.0, np.float32)})
        assert [finding.tensor for finding in findings_of(my_rule, checkpoint)] == ["token_embedding.weight"]
"""

from checkpoint_doctor.testing.causes import check_cause, diagnoses_of
from checkpoint_doctor.testing.checkpoints import build_checkpoint
from checkpoint_doctor.testing.loaders import check_loader
from checkpoint_doctor.testing.reporters import check_reporter
from checkpoint_doctor.testing.rules import check_rule, findings_of
from checkpoint_doctor.testing.series import build_series

__all__ = [
    "build_checkpoint",
    "build_series",
    "check_cause",
    "check_loader",
    "check_reporter",
    "check_rule",
    "diagnoses_of",
    "findings_of",
]
