"""How a word that no lexicon holds is said: letter-to-sound rules, and regular word endings."""
import functools
import re
from collections.abc import Callable

# Inside a context a capital letter stands for a kind of letter: V a vowel, C a consonant,
# E a vowel that makes c and g soft. "^" is the start of the word and "$" its end.
CLASSES = {"V": "[aeiouy]", "C": "[bcdfghjklmnpqrstvwxz]", "E": "[eiy]"}

# A rule is written left(letters)right=PHONES, and two spaces part the rules. At each place in
# the word the first rule that fits is taken, and its letters are used up. A rule with nothing
# after "=" makes its letters silent.
TABLE = """
^(a)$=AH  (augh)t=AO  (augh)=AE F  (au)=AO  (aw)=AO  (ay)=EY  (air)=EH R  V.*(ai)n$=AH  (ai)=EY
(aa)=AA  (ae)=EH  (are)$=EH R  (ares)$=EH R Z  ^(arr)=ER  (arr)V=EH R  V.*w(ar)=ER  w(ar)=AO R
qu(ar)=AO R  V.*(ar)d?s?$=ER  V.*C(ar)[iy]=EH R  V.*(ar)V=ER  (ar)V=EH R  (ar)=AA R
V.*C(a)ges?$=IH  (a)ste=EY  (a)nge=EY  (a)tiv=AH  (a)ti=EY  (a)tor=EY  (a)bl=AH  (a)nces?$=AH
(alk)=AO K  (alm)=AA M  V.*(all)y=AH L  (all)V=AE L  (all)=AO L  V.*(al)=AH L  (al)[td]=AO L
V.*(a)nt=AH  V.*(a)Cs?$=AH  ^C+(a)s?$=AA  (a)s?$=AH  ^(a)cce=AE  ^(a)(cc|pp|ss|tt|ff|nn)=AH
dis(a)=AH  V.*C(a)Cic=AE  V.*(a)CVCV*CV=AH  V.*C(a)CVC+V=AH  (a)Ces?$=EY  (a)C(ed|er|ers|ing)$=EY
(a)Ci[aeo]=EY  (a)[bcdgklpt]le=EY  w(a)[^gxc]=AA  qu(a)=AA  V.*C(a)CV=AH  ^(a)CV=AH  (a)CVC+V=AE
(a)Ce=EY  (a)=AE
(bb)=B  m(b)s?$=  (bt)$=T  (b)=B
(cch)=K  (ch)[rl]=K  s(ch)=K  e(ch)n=K  (ch)=CH  (ck)=K  (cc)E=K S  (cc)=K  (ci)[aeo]=SH  s(c)E=
(c)E=S  (cq)=K  (c)=K
(dge)$=JH  (dg)E=JH  (dd)=D  (dj)=JH  C(du)a=JH UW  a(du)a=JH UW  [kphcx]e(d)$=T  sse(d)$=T  (d)=D
(eau)=OW  (ear)[lnt]h?=ER  (ear)=IH R  (ea)d=EH  (ea)l?th=EH  (ea)v[ey]=EH  (eate)=IY EY T
(eati)=IY EY SH  (ea)s[au]=EH  (ea)=IY  (eer)=IH R  (ee)=IY  (eigh)=EY  c(ei)=IY  (ei)n=EY
(ei)=IY  (eu)=UW  [rnjl](ew)=UW  (ew)=Y UW  (ey)s?$=IY  (ey)=EY  (eo)=IY AH  ^C+(ere)$=IH R
(err)V=EH R  V.*(er)V=ER  (er)[io]=IH R  (er)V=EH R  (er)=ER  [td](e)d$=IH  (e)d$=  [scgz](e)s$=AH
[csx]h?(e)s$=IH  V.*C(e)s$=  V.*(e)$=  ^C+(e)$=IY  V.*C(e)(ly|ment|ful|less|ness)=
V.*(el)s?$=AH L  V.*(e)n(t|ts|ce|ces|tly|cy)?$=AH  V.*(e)n[st]h?$=AH  V.*(e)n[st]=EH  V.*(e)ss$=AH
V.*C(e)st$=AH  V.*(e)[bcdfgklmnpt]s?$=AH  V.*(e)m[bp]=EH  V.*(e)mV=AH  V.*(e)m=AH  ^(e)x[ct]r=EH
^(e)x=IH  b(e)CVC=IH  [dr](e)CV=IH  ^(e)CV(C+V|CCV)=IH  V.*(e)ti=EH  V.*(e)CVC=AH  (e)CVC=EH
(e)Cra=AH  (e)CV=IY  r(e)(sp|st)=IH  (e)=EH
(ff)=F  (f)=F
^(gh)=G  (gh)t=  (gh)$=  (gh)=G  (gn)$=N  ^(gn)=N  (gg)=G  (gue)$=G  (gu)[eiy]=G  (g)E=JH  (g)=G
V(h)C=  V(h)$=  C(h)$=  (h)=HH
(igh)=AY  (ign)$=AY N  (iew)=Y UW  C(ies)$=IY Z  ^C+(ied)$=AY D
V.*[fplrn](ied)$=AY D  (ied)$=IY D  ^C+(ie)$=AY  (ie)=IY  (ii)=IY  ^(irr)=IH R  (ire)$=AY ER
(ires)$=AY ER Z  (ir)ing=AY R  V.*(ir)V=AY R  (ir)V=IH R  (ir)=ER  (ique)=IY K  V.*(ive)=IH V
l(ine)$=AY N  V.*C(ine)$=IY N  V.*(ice)$=AH S  (ing)s?$=IH NG  (i)nd$=AY  (i)ld$=AY
^C+(i)[aou]=AY  (iou)s=IY AH  n(io)[nr]=Y AH  ll(io)n=Y AH  g(i)[aou]=  (i)[aou]=IY  V.*(i)bl=AH
V.*(i)Cs?$=IH  (i)s?$=IY  V.*(i)Ci[^e]=IH  V.*C(i)cal=IH  V.*C(i)Cen=AH  V.*C(i)ve=IH
V.*C(i)Ce[sd]?$=AY  V.*C(i)Cie=AH  V.*C(i)CV=AH  l(i)Cer=IH  (i)Ces?$=AY
(i)C(ed|er|ers|ing)s?$=AY  (i)Ce=AY  (i)=IH
(j)=JH
^(kn)=N  (kk)=K  (k)=K
C(le)$=AH L  C(les)$=AH L Z  C(led)$=AH L D  (ll)=L  (l)=L
(mm)=M  (mn)$=M  (m)=M
(ng)s?$=NG  a(ng)er=N JH  (ng)(th|ed|ing|er|ly)=NG  (n)g[aoulr]=NG  (n)(k|x|ct|qu)=NG  (nn)=N
(n)=N
(oar)=AO R  (oa)=OW  (oe)=OW  (oi)=OY  (oy)=OY  (ook)=UH K  (oor)=AO R  (ood)=UH D  (oo)=UW
(ought)=AO T  (ough)=OW  (ould)=UH D  (ous)=AH S  (our)[an]=ER  (our)=AO R  (ou)nt=AW  (ou)p=UW
(ou)=AW  (ow)n=AW  (ow)e[rl]=AW  (ow)d=AW  (ow)=OW  w(or)=ER  (orr)V=AO R  V.*(ors)$=ER Z
V.*C(or)(C|i)=AO R  V.*C(or)V$=AO R  V.*C(or)=ER  (ore)$=AO R  (or)=AO R  V.*(o)ns?$=AH
V.*(o)m$=AH  (o)ld=OW  c(o)ll=AH  (o)ll=OW  (o)st$=OW  (o)s?$=OW  c(o)(mm|nC|mp)=AH  (o)f=AO
^(o)ver=OW  (o)Ci[ao]=OW  V.*(o)Cic=AA  pr(o)v[ei]=UW  pr(o)CV=AH  sp(o)n=AA  V.*(o)CC=AH
V.*(o)Ces?$=OW  V.*(o)[st]V=OW  V.*(o)CV=AH  (o)C[oau]=OW  (o)CVCV*CV=AA  (o)Ces?$=OW
(o)C(ed|er|ers|ing)$=OW  (o)ve=AH  (o)Ce=OW  (o)=AA
(ph)=F  ^(ps)=S  ^(pn)=N  (pp)=P  (p)=P
(que)$=K  (qu)=K W  (q)=K
(rh)=R  (rr)=R  (r)=R
C(sion)=SH AH N  (sion)=ZH AH N  V(sur)e=ZH ER  (ssi)o=SH  (sch)V=S K  (sch)=SH  (sh)=SH  (ss)=S
(sm)$=Z AH M  di(s)V=S  V(s)V=Z  [tkpf]e(s)$=S  [iu](s)$=S  [bdglmnrvw](s)$=Z  V(s)$=Z  (s)=S
(tion)=SH AH N  (ties)$=T IY Z  (ti)[ae]=SH  (tur)V=CH ER  (tch)=CH  (tth)=TH  V(th)e=DH  (th)=TH
(tt)=T  (tu)a=CH UW  s(t)(le|en)=  (t)=T
(ui)=UW  (uy)=AY  s(ur)e=SH UH R  (urr)V=ER  (ur)V=Y UH R  (ur)=ER  g(u)E=  (ull)=UH L  (ue)$=UW
(u)V=UW  V.*(u)[sm]$=AH  ^(u)n[iy]=Y UW  ^(u)n(a|e|u)=AH  ^(u)CV=Y UW  V.*(u)Ca=Y AH
[rjltsd](u)CV=UW  (u)CV=Y UW  (u)$=UW  (u)=AH
(vv)=V  (v)=V
(wh)o=HH  (wh)=W  (wr)=R  (w)=W
^(x)=Z  ^e(x)V=G Z  (xc)E=K S  (x)=K S
^(y)=Y  ^C+(y)$=AY  C(y)ing=AY  f(y)=AY  C(y)$=IY  (y)V=Y  (yr)C=ER  (yr)=IH R  (y)c=AY  (y)Ce=AY
V.*(y)=IY  (y)=IH
(zz)=Z  (z)=Z
"""


@functools.cache
def rules() -> list[tuple[re.Pattern, str, re.Pattern, list[str]]]:
    """The table as a list of left context, letters, right context and phones."""
    found = []
    for text in re.split(r"\s{2,}|\n", TABLE.strip()):
        left, letters, right, phones = re.fullmatch(r"(\S*)\((\w+)\)(\S*)=(.*)", text).groups()
        for name, kind in CLASSES.items():
            left = left.replace(name, kind)
            right = right.replace(name, kind)
        # A left context ends where the letters begin.
        found.append((re.compile(f"(?:{left})$"), letters, re.compile(right), phones.split()))
    return found


def first_rule(word: str, place: int) -> tuple[str, list[str]]:
    """The letters and the phones of the first rule that fits the word at a place."""
    for left, letters, right, phones in rules():
        rest = word[place:].removeprefix(letters)
        if word.startswith(letters, place) and left.search(word[:place]) and right.match(rest):
            return letters, phones
    raise ValueError(f"no rule reads {word[place]!r}")


def guess(word: str) -> list[str]:
    """The phones of a word by the rules of spelling; never empty where the word has a letter."""
    word = "".join(letter for letter in word.lower() if "a" <= letter <= "z")
    found = []
    place = 0
    while place < len(word):
        letters, phones = first_rule(word, place)
        found += phones
        place += len(letters)
    return found


# Endings that are said alike after every word, and beginnings likewise.
ENDINGS = {
    "ing": "IH NG", "er": "ER", "est": "AH S T", "ly": "L IY", "ness": "N AH S", "less": "L AH S",
    "ful": "F AH L", "ment": "M AH N T", "able": "AH B AH L", "th": "TH", "eth": "AH TH",
}
BEGINNINGS = {"un": "AH N", "re": "R IY", "non": "N AA N", "mis": "M IH S", "dis": "D IH S"}


def plural(phones: list[str]) -> list[str]:
    """The phones of a word with the ending of a plural or a possessive."""
    if phones[-1] in ("S", "Z", "SH", "ZH", "CH", "JH"):
        return [*phones, "IH", "Z"]
    if phones[-1] in ("P", "T", "K", "F", "TH"):
        return [*phones, "S"]
    return [*phones, "Z"]


def past(phones: list[str]) -> list[str]:
    """The phones of a verb with the ending of the past."""
    if phones[-1] in ("T", "D"):
        return [*phones, "IH", "D"]
    if phones[-1] in ("P", "K", "F", "TH", "S", "SH", "CH"):
        return [*phones, "T"]
    return [*phones, "D"]


def stems(word: str, ending: str) -> list[str]:
    """The spellings that a word may have had before the ending was added, the likeliest first."""
    stem = word.removesuffix(ending)
    # A short stem is found by chance in any word.
    if len(stem) < 3:
        return []
    found = [stem]
    # Before a vowel a final e is dropped, or a final consonant is doubled.
    if ending[0] in "aei":
        found.insert(0, stem + "e")
        if stem[-1] == stem[-2]:
            found.append(stem[:-1])
    # A final y turns into i.
    if stem[-1] == "i":
        found.append(stem[:-1] + "y")
    return found


def joined(first: list[str], second: list[str]) -> list[str]:
    """Two runs of phones as one; a phone that ends the first and begins the second is said once."""
    if first[-1] == second[0]:
        return [*first, *second[1:]]
    return [*first, *second]


def derived(word: str, known: Callable[[str], list[str] | None]) -> list[str] | None:
    """The phones of a known stem with a regular ending or beginning; None where there is none."""
    # The plural and the past change their sound with the sound before them.
    changing = []
    if word.endswith(("ches", "shes", "sses", "xes", "zes", "oes", "ies")):
        changing.append(("es", plural))
    if word.endswith("s") and not word.endswith(("ss", "us", "is")):
        changing.append(("s", plural))
    if word.endswith("ed") and not word.endswith("eed"):
        changing.append(("ed", past))
    for ending, add in changing:
        for stem in stems(word, ending):
            phones = known(stem)
            if phones is not None:
                return add(phones)
    for ending, sound in ENDINGS.items():
        if word.endswith(ending):
            for stem in stems(word, ending):
                phones = known(stem)
                if phones is not None:
                    return joined(phones, sound.split())
    for beginning, sound in BEGINNINGS.items():
        rest = word.removeprefix(beginning)
        if rest != word and len(rest) > 2:
            phones = known(rest)
            if phones is not None:
                return joined(sound.split(), phones)
    return None
