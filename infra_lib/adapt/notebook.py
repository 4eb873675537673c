"""What the notebook shows, and where its figures are kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from IPython.display import display

from infra_lib import style
from infra_lib.adapt import show
from infra_lib.adapt.parameters import AdaptParameters
from infra_lib.adapt.results import Results, by_group, grouped
from infra_lib.markup import escape
from infra_lib.stage import ShownFragment


class Page:
    """Shows fragments and figures in order; figures are kept in ``out/figures``."""

    def __init__(self, parameters: AdaptParameters) -> None:
        self.folder = Path(parameters.out) / "figures"

    def html(self, markup: str) -> None:
        """Show a fragment of finished HTML."""
        display(ShownFragment(markup))

    def heading(self, target: str) -> None:
        """Show a line above what follows on a target."""
        self.html(f'<p class="group-heading"><strong>on {escape(style.name_of(target))}</strong></p>')

    def groups(self, results: Results, by: Sequence[str]) -> None:
        """Draw the scores of groups and keep the figure."""
        display(group_figure(self.folder, results, by))


def group_figure(
    folder: Path,
    results: Results,
    by: Sequence[str],
    *,
    notebook: str | None = None,
    behind: str | None = None,
) -> style.ShownFigure:
    """Draw and keep the scores of groups: each example where groups are domains, means and intervals.

    Parameters
    ----------
    notebook, behind
        Notebook and results file that a book links to, as :func:`infra_lib.style.save_figure` takes them.
    """
    style.apply()
    groups = by_group(results, by)
    single = grouped(results, by) if tuple(by) == ("domain",) else None
    words = " and ".join(by)
    count = results.examples["id"].nunique()
    return style.save_figure(
        folder,
        "adapt",
        f"scores_by_{'_'.join(by)}",
        show.group_scores(groups, single),
        data=groups,
        alt=f"Influence of training examples by {words}, one panel per target: {show.group_words(groups)}.",
        caption=f"Mean influence by {words} with 95 % bootstrap intervals over examples, in standard "
        f"deviations of a target's scores; n = {count} training examples, one model.",
        page=notebook,
        results=behind,
    )
