# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Reported beside measured
#
# Every effect that the paper claims, beside what this build measured for it. The rule for
# a verdict was written down before the runs: *reproduced* where the interval lies on the
# side that the paper reports, *not reproduced* where it lies on the other side,
# *undecided* where it holds zero.

# %% tags=["parameters"]
study: str = "small"  # name of the study

# %%
from infra_lib import figures, tables
from infra_lib.claims import measure_claims
from infra_lib.kinds.influence import from_others
from infra_lib.stage import open_stage

stage = open_stage("06_summary", globals())

# %% [markdown]
# ## The claims

# %%
claims = measure_claims(
    {
        "influence": stage.read_table("04_example_influence", "hard_minus_easy"),
        "transfer": stage.read_table("04_example_influence", "transfer"),
        "category": stage.read_table("04_example_influence", "symbolic_minus_conversational"),
        "arms": stage.read_table("05_reweighting_arms", "differences"),
        "sentences": stage.read_table("04_example_influence", "exploratory_minus_others"),
        "tokens": from_others(stage.read_table("04_example_influence", "token_classes")),
    }
)
stage.write_table("claims", claims)
for number, rows in claims.groupby("claim"):
    stage.write_fragment(f"claim-{number}", tables.claims_table(rows))
stage.write_fragment("claims", tables.claims_table(claims))

# %% [markdown]
# ## The answer, in one picture
#
# Each effect that was measured, with its interval, beside the side of zero that the paper reports.

# %%
measured = claims[claims["verdict"] != "not measured"]
stage.write_figure(
    "headline",
    figures.verdicts(measured),
    data=measured[
        ["test", "says", "domain", "direction", "mean", "low", "high", "unit", "runs", "n", "verdict"]
    ],
    alt="Effects beside the reported direction. "
    + "; ".join(
        f"{r.test}, {r.says}: {r.mean:+.{r.digits}f} {r.unit}, interval {r.low:+.{r.digits}f} to {r.high:+.{r.digits}f}, {r.verdict}"
        for r in measured.itertuples()
    ),
    caption=f"Every measured effect with its {stage.params.confidence:.0%} interval over runs and problems or examples."
    " Triangles stand on the side that the paper reports.",
)

# %% [markdown]
# ## The interventions
#
# What the flip did to accuracy here, against doing nothing, and what exploration in the
# training solutions did, against solutions without it.


# %%
def write_intervention(claim: str, name: str):
    """Write and return the figure of a claim's arms; arms that a study lacks are not in it."""
    arms = claims[(claims["claim"] == claim) & (claims["unit"] == "accuracy")]
    return stage.write_figure(
        name,
        figures.effects(arms.assign(label=arms["says"].str.split(",").str[0]), unit="difference in accuracy"),
        data=arms[["test", "says", "domain", "direction", "mean", "low", "high", "runs", "n", "verdict"]],
        alt="; ".join(
            f"{r.says}: {r.mean:+.3f}, interval {r.low:+.3f} to {r.high:+.3f}" for r in arms.itertuples()
        )
        or "Not measured in this study.",
        caption=f"Difference in accuracy with {stage.params.confidence:.0%} intervals over runs and problems.",
    )


write_intervention("2", "flip")

# %%
write_intervention("3", "exploration")

# %% [markdown]
# ## Where the numbers come from
#
# Commit, seeds, device and time of each notebook behind this page.

# %%
counts = claims["verdict"].value_counts()
stage.write_fragment("provenance", tables.provenance_table(stage.records()))

# %%
stage.write_summary(["verdicts: " + ", ".join(f"{count} {name}" for name, count in counts.items())])
stage.close()
