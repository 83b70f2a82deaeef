"""What the checks of this paper share: data, and the sizes of its profiles."""

from paper_checks.measurements.context import Context
from paper_checks.papers.mccandlish2018.measurements.profile import Profile


class Setup(Context):
    """The context of an audit of this paper."""

    paper = "mccandlish2018"
    profile: Profile
