"""Answers that would take seconds to evaluate, though no number in them is large."""

from __future__ import annotations

from rewards.big_formulas import THREE

SLOW_FORMULAS: dict[str, tuple[str, ...]] = {
    "series of matrices": (
        *(rf"{head}{THREE}{tail}" for head, tail in (("e^{", "}"), ("2^{", "}"), ("x^{", "}"), (r"\exp(", ")"))),
        *(rf"{head}{THREE}{tail}" for head, tail in ((r"\sin(", ")"), (r"\ln", ""), (r"\cosh(", ")"), ("e^{-2", "}"))),
        r"\begin{pmatrix} 7-x & 2 \\ y & 5 \end{pmatrix}^{10}",
        *(rf"{THREE}^{{{power}}}" for power in ("x", "1/2", r"\pi", "n+1")),
    ),
    "sums without end": (
        *(r"\sum_{n=2}^{\infty}\frac{1}{n\ln n}", r"\sum_{n=1}^{\infty}\frac{\sin n}{n}"),
        *(
            r"\sum_{n=1}^{\infty}\frac{1}{n^2+3}",
            r"\sum_{n=2}^{\infty}\log_2\sqrt{n}",
            r"\sum_{n=0}^{\infty}\sqrt[3]{n}",
        ),
        *(r"\sum_{n=1}^{\infty}\frac{1}{\sqrt[3]{n^2}}", r"\sum_{n=0}^{\infty} n!(3-n)", r"\sum_{n=1}^{\infty}\cos n"),
        *(r"\sum_{n=1}^{\infty}\frac{1}{(n^2+1)(n^2+2)}", r"\sum_{n=2}^{\infty}\sec^{-2} n"),
    ),
    "sums to a variable": (
        *(r"\sum_{k=0}^{20}\binom{20}{k}x^k", r"\sum_{k=2}^{90}(2k(k+7))^{20}"),
        *(
            r"\sum_{k=1}^{n}(k+x)^{40}",
            r"\sum_{k=1}^{n}k^{200}",
            r"\sum_{k=1}^{n}\sqrt[3]{3-k}",
            r"\sum_{k=1}^{n}\sin k",
        ),
        *(r"\sum_{k=1}^{n}\frac{1}{k^2+k+7}", r"\sum_{k=1}^{n}(\cos k-\sqrt[3]{e})^2", r"\sum_{k=0}^{n}\binom{n}{k}^2"),
        *(r"\sum_{k=1}^{n}(k+x+y)^{15}", r"\sum_{k=1}^{n}\ln(k+\sqrt k)", r"\sum_{k=1}^{n}k^k"),
    ),
    "integrals": (
        *(r"\int\frac{\ln x}{x^3+1}dx", r"\int_0^\infty\frac{\ln x}{x^2+3}dx", r"\int (x^2+ax+b)^{7/2}dx"),
        *(r"\int\frac{1}{(x^2+a)(x^2+b)(x^2+c)}dx", r"\int_0^{\infty}\cos(\pi x)dx", r"\int_{-1}^{1}\sqrt[3]{x}dx"),
        *(
            r"\int_0^{\infty} x^{x} dx",
            r"\int_0^1\cos(2x(x+7))dx",
            r"\int_0^{\pi} e^{x^{-2}}dx",
            r"\int_0^1 x\sqrt{x+3}dx",
        ),
        *(r"\int_0^{3}\sqrt{1-x^2} dx", r"\int_0^{\pi} \frac{1}{x}dx", r"\int_0^{\infty} (\pi x)^4dx"),
    ),
    "limits": (
        *(
            r"\lim_{x\to \infty}(11+x+\sinh x)",
            r"\lim_{x\to 0} \sin\sin x",
            r"\lim_{n\to\infty} n!",
            r"\lim_{x\to 0} x^{\sin x}",
        ),
        *(
            r"\lim_{x\to 0} \arctan(\ln x)",
            r"\lim_{x\to 0} \cosh x",
            r"\lim_{x\to 1} \arcsin x",
            r"\lim_{x\to 2}\Gamma(x)",
        ),
        *(r"\lim_{x\to 0} e^{\sin x}", r"\lim_{x\to\infty}\lfloor x\rfloor"),
    ),
    "roundings": (
        *(
            rf"{head}{body}{tail}"
            for head, tail in ((r"\lfloor", r"\rfloor"), ("|", "|"), (r"\operatorname{floor}(", ")"))
            for body in (
                r"\sum_{k=1}^{90}\frac{1}{\sqrt{k+\pi}}",
                r"\sum_{k=1}^{90}\sin(k+3)",
                r"\prod_{k=1}^{20}(x+\sqrt{k})",
            )
        ),
        r"\max(\prod_{k=1}^{20}(x+\sqrt{k}), 3)",
    ),
    "relations": (
        *(r"\sqrt{x+1}+\sqrt{x+2}+\sqrt{y+3}+\sqrt[3]{y}=7", r"\sin x+\sin 2x+\sin 3x+\cos 5x=y+\tan y"),
        *(r"x^5+\sin(x)y^3+\sqrt{x+y}=\ln(x+y)", r"x^4+xy^3+y^2+x=1", r"y+x=\sin 3x", r"xe^y+ye^x=2", "x^{20}+xy=y^2"),
        *(r"\frac{\pi}{y}(\pi-x)-\frac{8}{x}=2y+y^2", r"x\ln y+y\ln x=3", r"\tan x<y", r"f(x)=\sin x+y"),
    ),
}
"""What would take seconds, as its text tells, or the tree that is read of it. None is right where 7 or a line is."""
