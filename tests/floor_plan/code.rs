//! Reads Rust as far as the floor plan needs it: words and signs, without comments, texts, and what is for tests only.

/// A word or a sign of the code, and its line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
}

/// The code of a file as it is in the product.
pub(crate) fn product(text: &str) -> Vec<Token> {
    without_tests(&tokens(&blanked(text)))
}

/// Modules in files of their own that are compiled for tests only, as paths below `src` without `.rs`.
pub(crate) fn test_modules(path: &str, text: &str) -> Vec<String> {
    let tokens = tokens(&blanked(text));
    let folder = path.strip_suffix("mod.rs").map_or_else(|| path.replace(".rs", "/"), str::to_owned);
    let declared = (0..tokens.len()).filter(|at| is_test_attribute(&tokens[*at..])).filter_map(|at| {
        let item: Vec<&str> = tokens[at + 7..].iter().take(3).map(|token| token.text.as_str()).collect();
        matches!(item[..], ["mod", _, ";"]).then(|| format!("{folder}{}", item[1]))
    });
    declared.collect()
}

/// The code without items that are compiled for tests only.
fn without_tests(tokens: &[Token]) -> Vec<Token> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if is_test_attribute(&tokens[at..]) {
            at += item_length(&tokens[at..]);
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

fn is_test_attribute(tokens: &[Token]) -> bool {
    ["#", "[", "cfg", "(", "test", ")", "]"].iter().zip(tokens).filter(|(a, b)| **a == b.text).count() == 7
}

/// Tokens of an item with its attributes: to its semicolon, or to the end of its braces; a `use` ends with the former.
fn item_length(tokens: &[Token]) -> usize {
    let (mut depth, mut only_semicolon) = (0, false);
    for (at, token) in tokens.iter().enumerate() {
        match token.text.as_str() {
            "use" if depth == 0 => only_semicolon = true,
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth -= 1,
            _ => {}
        }
        if depth == 0 && (token.text == ";" || token.text == "}" && !only_semicolon) {
            return at + 1;
        }
    }
    tokens.len()
}

fn tokens(code: &str) -> Vec<Token> {
    let mut tokens: Vec<Token> = Vec::new();
    for (index, line) in code.lines().enumerate() {
        let mut in_word = false;
        for c in line.chars() {
            let is_word = c.is_alphanumeric() || c == '_';
            match tokens.last_mut().filter(|_| is_word && in_word) {
                Some(token) => token.text.push(c),
                None if c.is_whitespace() => {}
                None => tokens.push(Token { text: c.into(), line: index + 1 }),
            }
            in_word = is_word;
        }
    }
    tokens
}

/// The text with comments, strings and characters replaced by spaces; lines stay where they are.
fn blanked(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let (length, is_code) = match blank_length(rest, code.chars().next_back()) {
            Some(length) => (length, false),
            None => (c.len_utf8(), true),
        };
        let (piece, after) = rest.split_at(length.min(rest.len()));
        code.extend(piece.chars().map(|c| if is_code || c == '\n' { c } else { ' ' }));
        rest = after;
    }
    code
}

/// Bytes of the comment, string or character that begins here, if one does.
fn blank_length(rest: &str, before: Option<char>) -> Option<usize> {
    let after = |start: usize, end: &str| rest[start..].find(end).map_or(rest.len(), |at| start + at + end.len());
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(after(2, "*/"));
    }
    if rest.starts_with('"') {
        return Some(quoted(rest, '"'));
    }
    let hashes = rest.strip_prefix('r').map_or(0, |raw| raw.len() - raw.trim_start_matches('#').len());
    let in_word = before.is_some_and(|c| c.is_alphanumeric() && c != 'b' || c == '_');
    if rest.starts_with('r') && rest[1 + hashes..].starts_with('"') && !in_word {
        return Some(after(2 + hashes, &format!("\"{}", "#".repeat(hashes))));
    }
    // 'a' and '\n' are characters, 'a is a lifetime.
    let mut after_quote = rest.strip_prefix('\'')?.chars();
    let is_character = after_quote.next()? == '\\' || after_quote.next() == Some('\'');
    is_character.then(|| quoted(rest, '\''))
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}
