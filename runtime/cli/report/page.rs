//! A page of HTML that is being written. Whatever comes from a report goes through it as text and not as markup.

use std::fmt::Write as _;

use super::charts::Key;
use crate::chart::{IN_PAGE, cut, escaped};

/// Characters of any one text of a report: names may come from strangers.
const MOST_CHARACTERS: usize = 400;

/// Nothing may be fetched, run or sent: what styles and pictures there are, the page carries itself.
const HEAD: &str = r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
"#;

const STYLE: &str = include_str!("style.css");

/// The page so far.
pub(super) struct Page {
    text: String,
}

impl Page {
    pub(super) fn new(title: &str) -> Self {
        let title = escaped(&cut(title, MOST_CHARACTERS));
        Self { text: format!("{HEAD}<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n") }
    }

    pub(super) fn end(mut self) -> String {
        self.text.push_str("</body>\n</html>\n");
        self.text
    }

    /// Markup of our own, such as a drawing.
    pub(super) fn markup(&mut self, markup: &str) {
        self.text.push_str(markup);
        self.text.push('\n');
    }

    /// Text in an element, whose tag may have attributes of our own: `p class="pale"`.
    pub(super) fn element(&mut self, tag: &str, text: &str) {
        let name = tag.split(' ').next().unwrap_or(tag);
        let text = escaped(&cut(text, MOST_CHARACTERS));
        let _ = writeln!(self.text, "<{tag}>{text}</{name}>");
    }

    /// A command or another text that is of no use when it is cut.
    pub(super) fn code(&mut self, text: &str) {
        let text = escaped(&cut(text, 20 * MOST_CHARACTERS));
        let _ = writeln!(self.text, "<pre><code>{text}</code></pre>");
    }

    pub(super) fn list(&mut self, items: &[String]) {
        if items.is_empty() {
            return;
        }
        self.markup("<ul>");
        items.iter().for_each(|item| self.element("li", item));
        self.markup("</ul>");
    }

    /// Names and what they are; those without a value are left out.
    pub(super) fn facts(&mut self, facts: &[(&str, Option<String>)]) {
        self.markup("<dl>");
        for (name, value) in facts {
            let Some(value) = value.as_ref().filter(|value| !value.is_empty()) else { continue };
            let (name, value) = (escaped(name), escaped(&cut(value, MOST_CHARACTERS)));
            let _ = writeln!(self.text, "<div><dt>{name}</dt><dd>{value}</dd></div>");
        }
        self.markup("</dl>");
    }

    /// A table, the first columns of words, the others of numbers.
    pub(super) fn table(&mut self, words: usize, head: &[&str], rows: &[Vec<String>]) {
        let class = |column: usize| if column < words { " class=\"w\"" } else { "" };
        self.text.push_str("<div class=\"scroll\"><table>\n<thead><tr>");
        for (column, name) in head.iter().enumerate() {
            let _ = write!(self.text, "<th{}>{}</th>", class(column), escaped(name));
        }
        self.text.push_str("</tr></thead>\n<tbody>\n");
        for row in rows {
            self.text.push_str("<tr>");
            for (column, cell) in row.iter().enumerate() {
                let _ = write!(self.text, "<td{}>{}</td>", class(column), escaped(&cut(cell, MOST_CHARACTERS)));
            }
            self.text.push_str("</tr>\n");
        }
        self.text.push_str("</tbody></table></div>\n");
    }

    /// A chart with its heading, and what is to be known when reading it.
    pub(super) fn figure(&mut self, heading: &str, caption: &str, chart: &str, keys: &[Key]) {
        let (heading, caption) = (escaped(heading), escaped(&cut(caption, MOST_CHARACTERS)));
        let _ = writeln!(self.text, "<figure><figcaption><b>{heading}</b>{caption}</figcaption>\n{chart}");
        self.legend(keys);
        self.markup("</figure>");
    }

    /// What the colours mean.
    fn legend(&mut self, keys: &[Key]) {
        if keys.is_empty() {
            return;
        }
        self.text.push_str("<p class=\"key\">");
        for Key { colour, name } in keys {
            // As lines are drawn whose colours come again.
            let class = if *colour < IN_PAGE.colours.len() { "" } else { " class=\"d\"" };
            let (colour, name) = (IN_PAGE.colour(*colour), escaped(&cut(name, MOST_CHARACTERS / 4)));
            let _ = write!(self.text, "<span><i{class} style=\"color:{colour}\"></i>{name}</span>");
        }
        self.text.push_str("</p>\n");
    }

    /// A sentence that is good or bad news.
    pub(super) fn mark(&mut self, tag: &str, good: Option<bool>, text: &str) {
        let class = match good {
            Some(true) => "mark good",
            Some(false) => "mark bad",
            None => "pale",
        };
        self.element(&format!("{tag} class=\"{class}\""), text);
    }
}
