//! What a file says to the compiler: its text with comments and strings blanked out, line by line.

/// Rust with comments and the insides of strings replaced by blanks; lines and columns stay where they are.
pub fn rust(text: &str) -> String {
    let mut out = Blanking::new(text);
    while let Some(here) = out.peek(0) {
        match here {
            '/' if out.peek(1) == Some('/') => out.blank_while(|rest| !rest.starts_with('\n')),
            '/' if out.peek(1) == Some('*') => blank_nested_comment(&mut out),
            '"' => blank_quoted(&mut out, '"'),
            'r' if out.begins_literal() => blank_raw_string(&mut out),
            // 'a' and '\n' are characters, 'a without a closing quote is a lifetime.
            '\'' if out.peek(1) == Some('\\') || out.peek(2) == Some('\'') => blank_quoted(&mut out, '\''),
            _ => out.keep(),
        }
    }
    out.done
}

/// Python with comments and the insides of strings (so docstrings too) replaced by blanks.
pub fn python(text: &str) -> String {
    let mut out = Blanking::new(text);
    while let Some(here) = out.peek(0) {
        match here {
            '#' => out.blank_while(|rest| !rest.starts_with('\n')),
            '"' | '\'' => {
                let triple: String = [here; 3].iter().collect();
                if out.rest().starts_with(&triple) {
                    (0..3).for_each(|_| out.keep());
                    out.blank_while(|rest| !rest.starts_with(&triple));
                    (0..3).for_each(|_| out.keep());
                } else {
                    blank_quoted(&mut out, here);
                }
            }
            _ => out.keep(),
        }
    }
    out.done
}

/// The words (identifiers and keywords) of a line, with the column each begins at.
pub fn words(line: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_part = |part: char| part.is_alphanumeric() || part == '_';
    let mut from = 0;
    std::iter::from_fn(move || {
        let start = from + line[from..].find(is_part)?;
        let end = line[start..].find(|part| !is_part(part)).map_or(line.len(), |len| start + len);
        from = end;
        Some((start, &line[start..end]))
    })
}

/// Whether a line contains a word, as a whole.
pub fn has_word(line: &str, wanted: &str) -> bool {
    words(line).any(|(_, word)| word == wanted)
}

/// Walks a text and copies it, with what shall not be seen as blanks.
struct Blanking<'a> {
    text: &'a str,
    at: usize,
    done: String,
}

impl<'a> Blanking<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, at: 0, done: String::with_capacity(text.len()) }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.rest().chars().nth(ahead)
    }

    /// Whether a word begins here, or a prefix of one letter as in `br"…"` goes before.
    fn begins_literal(&self) -> bool {
        let before = self.done.strip_suffix(['b', 'c']).unwrap_or(&self.done);
        !before.ends_with(|last: char| last.is_alphanumeric() || last == '_')
    }

    fn keep(&mut self) {
        if let Some(here) = self.peek(0) {
            self.done.push(here);
            self.at += here.len_utf8();
        }
    }

    fn blank(&mut self) {
        if let Some(here) = self.peek(0) {
            self.done.push(if here == '\n' { '\n' } else { ' ' });
            self.at += here.len_utf8();
        }
    }

    fn blank_while(&mut self, goes_on: impl Fn(&str) -> bool) {
        while !self.rest().is_empty() && goes_on(self.rest()) {
            self.blank();
        }
    }
}

fn blank_quoted(out: &mut Blanking<'_>, quote: char) {
    out.keep();
    while let Some(here) = out.peek(0) {
        match here {
            '\\' => {
                out.blank();
                out.blank();
            }
            _ if here == quote => return out.keep(),
            _ => out.blank(),
        }
    }
}

/// `r"…"` and `r#"…"#`; an `r` that begins anything else is kept.
fn blank_raw_string(out: &mut Blanking<'_>) {
    let hashes = out.rest()[1..].chars().take_while(|&mark| mark == '#').count();
    if out.peek(1 + hashes) != Some('"') {
        return out.keep();
    }
    let end = format!("\"{}", "#".repeat(hashes));
    (0..hashes + 2).for_each(|_| out.keep());
    out.blank_while(|rest| !rest.starts_with(&end));
    (0..end.len()).for_each(|_| out.keep());
}

fn blank_nested_comment(out: &mut Blanking<'_>) {
    let mut depth = 0;
    while !out.rest().is_empty() {
        let step = if out.rest().starts_with("/*") {
            depth += 1;
            2
        } else if out.rest().starts_with("*/") {
            depth -= 1;
            2
        } else {
            1
        };
        (0..step).for_each(|_| out.blank());
        if depth == 0 {
            return;
        }
    }
}

#[test]
fn comments_and_strings_of_rust_are_not_code() {
    for (text, code) in [
        ("a // unsafe\nb", "a          \nb"),
        ("a /* x /* unsafe */ y */ b", "a                        b"),
        (r#"f("un\"safe") g"#, r#"f("        ") g"#),
        (r###"r#"un"safe"# g"###, r###"r#"       "# g"###),
        (r###"br#"a"b"# fn"###, r###"br#"   "# fn"###),
        ("b'\"' unsafe", "b' ' unsafe"),
        (r"'\'' unsafe", "'  ' unsafe"),
        ("fn f<'a>(x: &'a str) { unsafe }", "fn f<'a>(x: &'a str) { unsafe }"),
        ("for r in rows", "for r in rows"),
    ] {
        assert_eq!(rust(text), code, "{text}");
    }
}

#[test]
fn comments_and_strings_of_python_are_not_code() {
    for (text, code) in [
        ("a # eval(", "a        "),
        ("'''doc\n\"eval(\"''' eval(", "'''   \n       ''' eval("),
        (r"x = 'it\'s # no comment' # one", "x = '                  '      "),
    ] {
        assert_eq!(python(text), code, "{text}");
    }
}

#[test]
fn words_are_whole() {
    assert!(has_word("pub unsafe fn", "unsafe"));
    assert!(!has_word("forbid(unsafe_code)", "unsafe"));
    assert_eq!(words("a::b_c").collect::<Vec<_>>(), [(0, "a"), (3, "b_c")]);
}
