"""Numbers in digits as English words."""
import re

SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
).split()
TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()
SCALES = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (1000, "thousand"))
ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth",
    "nine": "ninth", "twelve": "twelfth",
}
CURRENCIES = {"$": "dollar", "€": "euro", "£": "pound"}


def cardinal(number: int) -> list[str]:
    """The words of a number below 10 ** 15."""
    if number < 20:
        return [SMALL[number]]
    if number < 100:
        tens, ones = divmod(number, 10)
        return [TENS[tens], *(cardinal(ones) if ones else [])]
    scale, name = next((pair for pair in SCALES if pair[0] <= number), (100, "hundred"))
    count, rest = divmod(number, scale)
    return [*cardinal(count), name, *(cardinal(rest) if rest else [])]


def numeral(text: str) -> list[str]:
    """The words of a number in digits, with commas between thousands and with decimals."""
    whole, *decimals = text.replace(",", "").split(".")
    # A number with zeros in front, or too long for a name, is read digit by digit.
    if len(whole) > 15 or re.match("0.", whole):
        words = [SMALL[int(digit)] for digit in whole]
    else:
        words = cardinal(int(whole)) if whole else []
    for part in decimals:
        words += ["point", *(SMALL[int(digit)] for digit in part)]
    return words


def year(number: int) -> list[str]:
    """The words of a year from 1100 to 2099: two pairs of digits, but two thousand to 2009."""
    century, rest = divmod(number, 100)
    if 2000 <= number <= 2009:
        return cardinal(number)
    if rest == 0:
        return [*cardinal(century), "hundred"]
    return [*cardinal(century), *(["oh"] if rest < 10 else []), *cardinal(rest)]


def ordinal(words: list[str]) -> list[str]:
    """The words of a number with the last as an ordinal: first, twentieth, fourth."""
    *front, last = words
    if last in ORDINALS:
        return [*front, ORDINALS[last]]
    return [*front, last.removesuffix("y") + ("ieth" if last.endswith("y") else "th")]


def money(currency: str, amount: str, scale: str | None) -> list[str]:
    """The words of a sum of money: five dollars, five dollars fifty, five million euros."""
    cents = re.fullmatch(r"([\d,]+)\.(\d\d)", amount)
    one = (cents[1] if cents else amount) == "1" and not scale
    unit = CURRENCIES[currency] + ("" if one else "s")
    if cents and not scale:
        return [*numeral(cents[1]), unit, *(cardinal(int(cents[2])) if int(cents[2]) else [])]
    return [*numeral(amount), *([scale] if scale else []), unit]
