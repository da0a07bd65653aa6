"""Names of ClickHouse functions by what they mean for us; all compared in lower case."""

from __future__ import annotations

import re

from sqlglot import exp


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


AGGREGATES = words(
    """
aggthrow analysisofvariance anova any any_respect_nulls any_value any_value_respect_nulls anyheavy anylast
anylast_respect_nulls anylastrespectnulls anyrespectnulls anyvaluerespectnulls approx_top_count approx_top_k
approx_top_sum argandmax argandmin argmax argmin array_agg array_concat_agg avg avgweighted bit_and bit_or
bit_xor boundingratio categoricalinformationvalue contingency corr corrmatrix corrstable count covar_pop
covar_samp covarpop covarpopmatrix covarpopstable covarsamp covarsampmatrix covarsampstable cramersv
cramersvbiascorrected cume_dist deltasum deltasumtimestamp dense_rank denserank distinctdynamictypes
distinctjsonpaths distinctjsonpathsandtypes entropy estimatecompressionratio exponentialmovingaverage
exponentialtimedecayedavg exponentialtimedecayedcount exponentialtimedecayedmax exponentialtimedecayedsum
first_value first_value_respect_nulls firstvaluerespectnulls flamegraph gini group_concat grouparray
grouparrayinsertat grouparrayintersect grouparraylast grouparraymovingavg grouparraymovingsum grouparraysample
grouparraysorted groupbitand groupbitmap groupbitmapand groupbitmapor groupbitmapxor groupbitor groupbitxor
groupconcat groupformat groupnumericindexedvector groupuniqarray hierarchicalkmeans histogram intervallengthsum
kolmogorovsmirnovtest kurtpop kurtsamp lag laginframe largesttrianglethreebuckets last_value
last_value_respect_nulls lastvaluerespectnulls lead leadinframe lttb mannwhitneyutest max max_by
maxintersections maxintersectionsposition maxmappedarrays meanztest median medianbfloat16 medianbfloat16weighted
mediandd mediandeterministic medianexact medianexacthigh medianexactlow medianexactweighted
medianexactweightedinterpolated mediangk medianinterpolatedweighted mediantdigest mediantdigestweighted
mediantiming mediantimingweighted mergedjsonpatch min min_by minmappedarrays mvtencode nonnegativederivative
nothing nothingnull nothinguint64 nth_value ntile percent_rank percentrank quantile quantilebfloat16
quantilebfloat16weighted quantiledd quantiledeterministic quantileexact quantileexactexclusive quantileexacthigh
quantileexactinclusive quantileexactlow quantileexactweighted quantileexactweightedinterpolated quantilegk
quantileinterpolatedweighted quantileprometheushistogram quantiles quantilesbfloat16 quantilesbfloat16weighted
quantilesdd quantilesdeterministic quantilesexact quantilesexactexclusive quantilesexacthigh
quantilesexactinclusive quantilesexactlow quantilesexactweighted quantilesexactweightedinterpolated quantilesgk
quantilesinterpolatedweighted quantilesprometheushistogram quantilestdigest quantilestdigestweighted
quantilestiming quantilestimingweighted quantiletdigest quantiletdigestweighted quantiletiming
quantiletimingweighted rank rankcorr regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx
regr_sxy regr_syy retention row_number sequencecount sequencematch sequencematchevents sequencenextnode
simplelinearregression singlevalueornull skewpop skewsamp sparkbar st_asmvt std stddev stddev_pop stddev_samp
stddevpop stddevpopstable stddevsamp stddevsampstable stochasticlinearregression stochasticlogisticregression
string_agg studentttest studentttestonesample sum sumcount sumkahan summapfiltered summapfilteredwithoverflow
summappedarrays summapwithoverflow sumwithoverflow theilsu timeseriesavgtogrid timeseriesbottomkmasks
timeserieschangestogrid timeseriescounttogrid timeseriesdeltatogrid timeseriesderivtogrid timeseriesgrouparray
timeseriesincreasetogrid timeseriesinstantdeltatogrid timeseriesinstantratetogrid timeserieslasttogrid
timeserieslasttwosamples timeserieslimitkmasks timeseriesmaxtogrid timeseriesmintogrid
timeseriespredictlineartogrid timeseriesratetogrid timeseriesresampletogridwithstaleness timeseriesresetstogrid
timeseriessumtogrid timeseriestimestampofmaxtogrid timeseriestimestampofmintogrid timeseriestopkmasks topk
topkweighted uniq uniqcombined uniqcombined64 uniqexact uniqhll12 uniqupto var_pop var_samp varpop varpopstable
varsamp varsampstable welchttest windowfunnel
"""
)
"""Every aggregate of ClickHouse 26.9 (`system.functions`), in lower case, and the pure window functions."""
COMBINATORS = (
    "simplestate", "ordefault", "distinct", "resample", "foreach", "argmax", "argmin", "ornull", "tuple", "merge",
    "state", "array", "null", "map", "if",
)  # fmt: skip
WINDOW_ONLY = words(
    "row_number lag lead laginframe leadinframe nth_value ntile rank dense_rank denserank percent_rank percentrank "
    "cume_dist nonnegativederivative"
)
BY_POSITION = words("row_number lag lead laginframe leadinframe nth_value ntile nonnegativederivative")
"""Window functions whose value depends on where among its peers a row stands."""

TABLE_FUNCTIONS = words("numbers numbers_mt zeros zeros_mt generateseries generate_series values null format")
"""Table functions that read nothing but their arguments; every other one is refused."""

NOT_REPEATABLE = words(
    "rand rand32 rand64 randconstant randcanonical randuniform randnormal randlognormal randexponential randchisquared "
    "randstudentt randfisherf randbernoulli randbinomial randnegativebinomial randpoisson randomstring "
    "randomfixedstring randomprintableascii randomstringutf8 fuzzbits fuzzquery generateuuidv4 generateuuidv7 "
    "generateulid generatesnowflakeid generateserialid datetimetouuidv7 arrayshuffle arraypartialshuffle "
    "arrayrandomsample nowinblock nowinblock64 rownumberinblock rownumberinallblocks blocknumber blocksize "
    "blockserializedsize runningdifference runningdifferencestartingwithfirstvalue runningaccumulate "
    "runningconcurrency neighbor hostname fullhostname fqdn serveruuid uptime version revision buildid getoskernelversion "
    "queryid query_id initialqueryid initial_query_id currentqueryid current_query_id initialquerystarttime "
    "initial_query_start_time connectionid connection_id tcpport filesystemavailable filesystemcapacity "
    "filesystemunreserved zookeepersessionuptime transactionid grouparraysample anyheavy topk topkweighted "
    "localtime localtimestamp generaterandomstructure"
)
"""Functions whose value is another one each time, on each node or for each block."""

_REFUSED = words(
    "file joinget joingetornull sleep sleepeachrow getmacro getserversetting getmergetreesetting getserverport "
    "showcertificate hascolumnintable addresstoline addresstolinewithinlines addresstosymbol demangle "
    "evalmlmethod catboostevaluate getclienthttpheader errorcodetoname chdb currentprofiles enabledprofiles "
    "defaultprofiles currentroles enabledroles defaultroles naivebayesclassifier naivebayesclassifierwithprob "
    "naivebayesclassifierwithallprobs tcpport pg_get_userbyid pggetuserbyid pgtableisvisible pg_table_is_visible "
    "currentrequesturl authenticateduser authuser transactionlatestsnapshot transactionoldestsnapshot "
    "getsetting getsettingordefault aggthrow __scalarsubqueryresult __patchpartitionid __applyfilter"
)
_REFUSED_PREFIXES = ("dict", "ai", "python")
_IN_AS_FUNCTION = re.compile(r"(global)?(not)?(null)?in(ignoreset)?", re.IGNORECASE)
"""in(x, name) reads a table by its bare name; the operator IN is checked, its functions need not be there."""


def is_refused(name: str) -> bool:
    """Scalar functions that read files, other tables or the server, or that only wait."""
    lower = name.lower()
    if _IN_AS_FUNCTION.fullmatch(name):
        return True
    return lower in _REFUSED or (lower.startswith(_REFUSED_PREFIXES) and name[:2] in ("di", "ai", "AI", "py"))


def function_name(node: exp.Expr) -> str | None:
    """The name under which a function was called, or None where `node` is no call of a named function."""
    if isinstance(node, exp.Anonymous | exp.AnonymousAggFunc | exp.CombinedAggFunc | exp.ParameterizedAgg):
        return str(node.name)
    return None


def aggregate_parts(name: str) -> tuple[str, tuple[str, ...]] | None:
    """An aggregate's base name and combinators, all in lower case (`argMaxIf`: argmax, (if,)); None for others."""
    rest = name.lower()
    suffixes: tuple[str, ...] = ()
    while rest not in AGGREGATES:
        suffix = next((s for s in COMBINATORS if rest.endswith(s) and rest != s), None)
        if suffix is None:
            return None
        rest, suffixes = rest[: -len(suffix)], (suffix, *suffixes)
    return rest, suffixes
