"""Answers that would take minutes to compute, and right ones that are as long or large as people write them."""

from __future__ import annotations

FIVE = r"a & b & c & d & 1 \\ d & k & g & h & 2 \\ 1 & 2 & 3 & 4 & 5 \\ x & y & z & w & u \\ a & c & x & z & 9"
"""What is in a matrix of five rows."""

THREE = r"\begin{pmatrix} 1 & 2 & 3 \\ 4 & 5 & 7 \\ 8 & 1 & 2 \end{pmatrix}"

BIG: dict[str, tuple[str, ...]] = {
    "powers": (
        *(r"9^{9^{9}}", r"9^9^9", r"9**9**9", r"9^{12!}", r"(10^{99999})^{99999}", r"{10^{99999}}^{99999}"),
        *(
            r"9^{99999 \cdot 99999}",
            r"9^{\frac{99999999999}{3}}",
            r"2^{2^{2^{2^{2}}}}",
            r"e^{10^{9}}",
            r"10^{1,000,000}",
        ),
        *(r"\left(\frac{1}{3}\right)^{10^8}", r"(1+i)^{10^8}", r"7^{10^9} \bmod 10", r"9^{-10^{9}}", r"1e999999999"),
        *(
            r"|9+9|^{10^9}",
            r"|10^{5000}+1|^{5}",
            r"(9+9)^{|9^{9}|}",
            r"\pi^{10^7}",
            r"9^{\lfloor 10^{9} \rfloor}",
            r"9^{9999999 + 9999999}",
        ),
        *(r"\lfloor 10^{99999}\pi\rfloor", r"9^{9}" + r"\cdot 9^{999}" * 12, r"\gcd(10^{99999}, 9^{99999})"),
    ),
    "factorials": (
        *(r"10^{9}!", r"(9999 \cdot 9999)!", r"((((3!)!)!)!)", r"3!!!!", r"99999999999^{9999}!", r"(2^{64})!"),
        *(r"\Gamma(10^9)", r"\gamma(99999999)", r"\frac{(10^8)!}{(10^8-1)!}", r"100000!", r"\prod_{k=1}^{10^8} k"),
    ),
    "binomials": (
        *(r"\binom{2 \cdot 10^9}{10^9}", r"\binom{12!}{11!}", r"{99999999 \choose 4999999}", r"\dbinom{10^9}{500000}"),
        *(r"\binom{10^9}{\frac{22}{7}}", r"\binom{10^9}{\pi}", r"\binom{99999}{\binom{99}{49}}", r"\binom{9^9}{9^8}"),
        *(r"\tbinom{99999}{50000}", r"{10^{6} \choose 10^{5}}", r"\binom{10^{20}}{k}", r"\binom{x}{99999}"),
    ),
    "symbols": (
        *(r"(x+1)^{99999}", r"(x+y+z+w)^{200}", r"(a+b+c)^{50}(d+e+f)^{50}", r"((x+1)^{99}+y)^{99}", r"(x+y)^{10^{4}}"),
        *(r"(1+x+x^2)^{99^2}", r"\left(\sin x+\cos x\right)^{99999}", r"(a+b)^{9!}", r"\prod_{k=1}^{100} (x+y+k)"),
        *(r"(n+99999)!", r"(x-1)^{99}(x+y)^{99}"),
    ),
    "roots": (
        *(
            r"\sqrt[3]{10^{99999}+1}",
            r"\sqrt{10^{5000}+1}",
            r"(10^{5000}+1)^{1/3}",
            r"\sqrt{99999!}",
            r"\sqrt[7]{2024!}",
        ),
        *(r"\sqrt{9^{9999}-1}", r"(2^{9999}+1)^{\frac{2}{3}}", r"(2^{9999}+1)^{0.5}", r"\sqrt{\sqrt{10^{4001}+1}}"),
        *(r"\sqrt{\binom{9999}{4999}}", r"10^{\sqrt{10^{99999}}}"),
    ),
    "functions": (
        *(r"\exp(\exp(\exp(\exp(9))))", r"\cosh(10^{9})", r"\sinh(\sinh(99999))", r"\cos(10^{10^{10}})"),
        *(
            r"\log_{2}(3^{10^8})",
            r"\ln(9^{9^9})",
            r"\tan(9^{99999})",
            r"\arctan\left(10^{10^6}\right)",
            r"\exp(10^{20})",
        ),
        *(r"\operatorname{eye}(99999)", r"\operatorname{zeros}(9^{9})"),
    ),
    "ranges": (
        *(
            r"\sum_{i=1}^{10^9} i^{i}",
            r"\sum_{i=1}^{999999999} \frac{1}{i}",
            r"\prod_{i=1}^{10^8} i",
            r"\sum_{k=0}^{9999} 2^{k}",
        ),
        *(
            r"\sum_{i=1}^{99}\sum_{j=1}^{99}\sum_{k=1}^{99}\frac{1}{i+j+k}",
            r"\sum_{n=1}^\infty \frac{\sin n}{n^3+\cos n}",
        ),
        *(r"\int_0^1 e^{x^{x^x}} \sin(\tan x) dx", r"\lim_{x\to 0} \frac{\sin(\tan(x))-\tan(\sin(x))}{x^7}"),
        *(
            r"\prod_{k=\frac12}^{5} (2+k)",
            r"\sum_{k=1}^{11/2} k",
            r"\sum_{k=1}^{8 \bmod 3/4} k",
            r"\sum_{k=1}^{3(4)/2(5)} k",
        ),
        *(rf"\lfloor {n}\prod_{{k=1}}^{{{n}}}(x+\sqrt k)\rfloor" for n in (6, 12, 20, 50)),
        *(r"\lfloor 3\prod_{k=1}^{100}(x+k)\rfloor", r"\lceil \frac13\prod_{k=1}^{20}(x+k)(y+k)\rceil"),
        *(
            r"\lceil \frac13\prod_{k=1}^{99}(1+\frac1k)\rceil",
            r"\left\lfloor \prod_{k=1}^{50}(1+\sqrt k)+1\right\rfloor",
        ),
        *(r"\sum_{k=0}^{2023} 2^{k}", r"\sum_{k=0}^{999} (-1)^{k} k", r"\sum_{k=0}^{2000} \binom{2000}{k}"),
        *(r"\prod_{k=1}^{0.5} (2+k)", r"\prod_{k=1}^{\pi} (12+k)", r"\sum_{k=1}^{\sqrt{2}} k"),
        *(r"\int \int \int x y z dx dy dz", r"\lim_{n\to\infty} \lim_{m\to\infty} \lim_{k \to 0} nmk"),
        *(r"\int_0^{\infty} \frac{\ln x \sin x}{\sqrt{x}} dx", r"\prod_{p=2}^{10^{10}} (1-\frac{1}{p^2})"),
    ),
    "matrices": (
        *(rf"\begin{{vmatrix}} {FIVE} \end{{vmatrix}}", rf"\det(\begin{{pmatrix}} {FIVE} \end{{pmatrix}})"),
        *(rf"\begin{{pmatrix}} {FIVE} \end{{pmatrix}}^{{-1}}", rf"((\begin{{pmatrix}} {FIVE} \end{{pmatrix}}))^{{-1}}"),
        *(
            rf"\operatorname{{{name}}}\begin{{pmatrix}} a & b & 7 \\ c & d & 8 \\ 1 & 2 & x \end{{pmatrix}}"
            for name in ("rank", "svd", "eig", "eigenvals", "eigenvects", "nullspace", "rref", "orth", "norm")
        ),
        *(rf"\operatorname{{{name}}}({THREE})" for name in ("eig", "diagonalize", "svd")),
        r"\operatorname{eigenvals}\begin{pmatrix} 10^{99} & 1 \\ 1 & 7 \end{pmatrix}",
        r"\operatorname{eigenvals}\begin{pmatrix} \sqrt2 & 1 & 3 \\ 1 & \sqrt7 & 1 \\ 1 & 2 & 5 \end{pmatrix}",
        *(
            r"\begin{vmatrix} (x+1)^{99} & y \\ 2 & (x-1)^{99} \end{vmatrix}",
            r"(\operatorname{lcm}(10^{999}, 7))^{2000}",
        ),
        r"\operatorname{tr}(\begin{pmatrix} 10^{999} & 0 \\ 0 & 1 \end{pmatrix})^{2000}",
    ),
    "shapes": (
        *(
            r"\begin{pmatrix}" + r"1 & 2 \\" * 100 + r"\end{pmatrix}",
            "(" * 30 + "7" + ")" * 30,
            "x_{" * 12 + "7" + "}" * 12,
        ),
        *(r"(1,2)\cup " * 87 + "(1,2)", "+".join(f"x_{{{n}}}" for n in range(90)), r"\frac{1}{" * 40 + "7" + "}" * 40),
        *(
            r"\{" + ",".join(rf"\frac{{{n}}}{{7}}" for n in range(90)) + r"\}",
            "2^" * 300 + "2",
            "|" * 400,
            "-" * 400 + "1",
        ),
        *(r"\sin " * 300 + "x", r"\begin{vmatrix}" + r"a & b & c & d & e & f & g & h & i \\" * 9 + r"\end{vmatrix}"),
    ),
}

RIGHT: tuple[tuple[str, str], ...] = (
    *(
        ("511566", rf"\sum_{{k=1}}^{{{end}}} k")
        for end in (
            r"(2023-1)/2",
            r"\frac{2022}{2}",
            r"\left(\frac{2023-1}{2}\right)",
            r"10110/5 \cdot \frac{\frac{4}{2}}{4}",
        )
    ),
    *(("120", r"\prod_{k=\frac{2}{2}}^{10/2} k"), ("55", r"\sum_{k=0}^{\dfrac{20}{2}} \binom{k}{1}")),
    *(
        ("2047276", r"\sum_{k=1}^{2023} k"),
        ("4092529", r"\sum_{k=1}^{2023} (2k-1)"),
        ("21", r"\lfloor\frac{1}{34}\prod_{k=1}^{5}(k+1)\rfloor"),
    ),
    *(("5", rf"\operatorname{{norm}}\begin{{pmatrix}} 3 \\ {four} \end{{pmatrix}}") for four in ("4", r"\frac{8}{2}")),
    *(("3", rf"\operatorname{{rank}}({THREE})"), ("3", rf"\operatorname{{rank}}{THREE}")),
    *(
        (r"2", r"\begin{vmatrix} 1 & 2 \\ 0 & 2 \end{vmatrix}"),
        ("xy-uz", r"\begin{vmatrix} x & u \\ z & y \end{vmatrix}"),
        (r"\binom{2024}{k}", r"\binom{2024}{2024-k}"),
        ("12", r"\operatorname{lcm}(4, 6)"),
        (r"1.6 \times 10^{-19}", r"1.60 \cdot 10^{-19}"),
        (r"\frac{\sqrt{2}}{10^{8}}", r"\frac{1}{10^{8} \sqrt{2}} \cdot 2"),
        ("0.00012345", "0.000123"),
    ),
    *(("10^{100}", r"10^{99} \cdot 10"), ("10^{100}", "(10^{50})^2"), ("10^{100}", "1" + "0" * 100)),
    *(
        ("1" + "0" * 100, "10^{100}"),
        ("100!", r"\frac{101!}{101}"),
        ("100!", r"99! \cdot 100"),
        ("2^{1000}", "4^{500}"),
    ),
    *((r"\binom{100}{50}", r"\frac{100!}{50! \cdot 50!}"), ("100891344545564193334812497256", r"\binom{100}{50}")),
    *(("100891344545564193334812497256", r"{100 \choose 50}"), ("2^{2024}", "4^{1012}"), ("2^{2024}-1", "-1+4^{1012}")),
    *(
        ("2^{2024}", r"2^{2023} \cdot 2"),
        (r"\frac{2^{2024}-1}{3}", r"\frac{4^{1012}-1}{3}"),
        ("2^{100000}", "4^{50000}"),
    ),
    *(("10^{20000}", "100^{10000}"), ("2^{2^{10}}", "2^{1024}"), ("2^{2^{2^{2}}}", "65536"), ("3^{27}", "3^{3^3}")),
    *(("2^{10^5}", "2^{100000}"), (r"2024 \cdot 2023", r"\frac{2024!}{2022!}"), ("2024^{2024}", "(2024^{1012})^2")),
    *(
        (r"\frac{1}{2^{100}}", "2^{-100}"),
        ("e^{10}", "(e^5)^2"),
        ("(x+1)^{100}", "(x^2+2x+1)^{50}"),
        ("n!", r"n \cdot (n-1)!"),
    ),
    *(("(x+1)^{10}", "(1+x)^{10}"), ("x^{2024}-1", "-1 + x^{2024}"), (r"\frac{(2n)!}{n!n!}", r"\binom{2n}{n}")),
    *((r"\sqrt{2}+\sqrt{3}", r"\sqrt{5+2\sqrt{6}}"), (r"\sqrt[3]{2}", "2^{1/3}"), ("5050", r"\sum_{k=1}^{100} k")),
    *((r"\frac{\pi^2}{6}", r"\sum_{n=1}^{\infty} \frac{1}{n^2}"), (r"\frac{1}{3}", r"\int_0^1 x^2 dx"), ("120", "5!")),
    *(("1", r"\int_0^\infty e^{-x} dx"), ("1", r"\lim_{x \to 0} \frac{\sin x}{x}"), ("3", r"\lfloor \pi \rfloor")),
    *((r"\sin^2 x", r"1-\cos^2 x"), (r"\sin 2x", r"2\sin x\cos x"), (r"\log_2 3", r"\frac{\ln 3}{\ln 2}")),
    *(
        ("5", r"10^{99999} \bmod 7 = 5"),
        ("5", r"2^{2^{2^{5}}} = 5"),
        ("5", r"\int_0^1 \frac{\sin(x^2)\cos x}{1+x} dx = 5"),
    ),
    *((r"\{1,2,3\}", r"\{3,2,1\}"), (r"(-\infty,-1)\cup(1,\infty)", r"(-\infty,-1) \cup (1, \infty)"), ("x=3", "3")),
    *((r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{bmatrix} 1 & 2 \\ 3 & \frac{8}{2} \end{bmatrix}"),),
    *(
        (r"1 \pm \sqrt{2}", r"1+\sqrt2, 1-\sqrt2"),
        ("y=x^2", "x^2=y"),
        ("9", r"9\%"),
        ("0.5", r"50\%"),
        ("90", r"90^\circ"),
    ),
    *(("(1+x)^{2024}", "(1+x)^{1012}(1+x)^{1012}"), ("10^{1012}", r"\sqrt{10^{2024}}")),
    *(("1012^{1012}", r"\sqrt{1012^{2024}}"), ("1", r"\sum_{n=1}^{\infty}\frac{1}{2^n}")),
    *((r"\frac{n(n+1)}{2}", r"\sum_{k=1}^{n}k"), (r"\frac{n(n+1)(2n+1)}{6}", r"\sum_{k=1}^{n} k^2")),
    *(("1", r"\sum_{n=1}^{\infty}\frac{1}{n(n+1)}"), (r"\ln 2", r"\sum_{n=1}^{\infty}\frac{(-1)^{n+1}}{n}")),
    *(("e", r"\sum_{n=0}^{\infty}\frac{1}{n!}"), ("e^x", r"\sum_{k=0}^{\infty}\frac{x^k}{k!}")),
    *(("2", r"\sum_{n=1}^\infty\frac{n}{2^n}"), ("e", r"\lim_{n\to\infty}(1+\frac1n)^n")),
    *((r"\sqrt{\pi}", r"\int_{-\infty}^{\infty}e^{-x^2}dx"), (r"\frac{\pi}{4}", r"\int_0^1\frac{1}{1+x^2}dx")),
    *(("2", r"\int_0^\pi\sin x dx"), (r"\ln 2", r"\int_1^2\frac{1}{x}dx"), (r"\frac{x^3}{3}", r"\int x^2 dx")),
    *((r"\frac{1}{2}", r"\int_0^1\int_0^1 x dx dy"), (r"1-\cos x", r"\int_0^x \sin t dt")),
    *((r"\frac{30}{13}", r"2+\cfrac{1}{3+\cfrac{1}{4}}"), (r"6.02 \times 10^{23}", r"6.02 \cdot 10^{23}")),
)

INFINITE: tuple[tuple[str, str, float], ...] = (
    *((r"\infty", r"\infty", 1.0), (r"\infty", r"+\infty", 1.0), (r"-\infty", r"-\infty", 1.0), (r"\infty", "5", 0.0)),
    *(
        (r"\infty", r"-\infty", 0.0),
        (r"-\infty", r"\infty", 0.0),
        (r"\infty", "10^{400}", 0.0),
        (r"\infty", "1e400", 0.0),
    ),
    *(
        (r"\infty", "x", 0.0),
        (r"\infty", r"\frac{1}{0}", 0.0),
        (r"\infty", r"\infty-\infty", 0.0),
        ("5", r"\infty", 0.0),
    ),
    *((r"(0,\infty)", r"(0, \infty)", 1.0), (r"(0,\infty)", "(0,5)", 0.0), (r"(0,\infty)", "(0,10^{400})", 0.0)),
    *((r"(0,\infty)", r"[0,\infty)", 0.0), (r"(-\infty,1)", "(-5,1)", 0.0), (r"(-\infty,\infty)", "(-1,1)", 0.0)),
    *(("(0,5)", r"(0,\infty)", 0.0), (r"\{1,\infty\}", r"\{1,5\}", 0.0), (r"(-\infty,2]", r"(-\infty, 2]", 1.0)),
    *(
        (r"[1,\infty)", r"(\infty,1]", 0.0),
        (r"(1,\infty)", r"(1,\infty)\cup\{0\}", 0.0),
        (r"\infty", r"\text{none}", 0.0),
    ),
)

SMALL: tuple[tuple[str, str], ...] = (
    *(
        (r"1.6 \times 10^{-19}", "0.0"),
        (r"1.6 \times 10^{-19}", r"3.2 \times 10^{-10}"),
        (r"\frac{\pi}{10^{7}}", "0.0"),
    ),
    *((r"\frac{\sqrt{2}}{10^{20}}", r"\frac{\sqrt{3}}{10^{20}}"), ("0.0000001", "0.0"), ("0.0000012", "0.0000014")),
    *((r"\frac{\pi}{10^{7}}", "0.0000001"), (r"e^{-20}", "0.0"), (r"e^{-20}", r"e^{-21}"), ("0.0", "0.0000001")),
)
"""Numbers below the sixth decimal and what is not the same."""
