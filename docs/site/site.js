// What scrolls sideways can be reached and scrolled by keyboard.
const focusWhatScrolls = () => {
  for (const area of document.querySelectorAll("pre > code, .md-typeset__scrollwrap")) {
    if (area.scrollWidth > area.clientWidth) area.tabIndex = 0;
    else area.removeAttribute("tabindex");
  }
};

addEventListener("load", focusWhatScrolls);
addEventListener("resize", focusWhatScrolls);
