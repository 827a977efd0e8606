//! Reads a Markdown text: its blocks, the commands in them, and what of an answer may differ from run to run.

/// A fenced block.
pub(crate) struct Block<'a> {
    pub(crate) language: &'a str,
    pub(crate) text: &'a str,
    /// The line above it that is not empty.
    pub(crate) above: &'a str,
}

/// A command after its prompt, and what is shown below it.
#[derive(Debug, PartialEq)]
pub(crate) struct Step<'a> {
    pub(crate) command: &'a str,
    pub(crate) shown: String,
}

/// Routes by the order in which they were first met: which node is the first one is chance.
#[derive(Default)]
pub(crate) struct Routes(Vec<String>);

impl Routes {
    /// The text with `<node 0>` for the first route met, `<node 1>` for the second.
    pub(crate) fn masked(&mut self, text: &str) -> String {
        let is_route = |word: &str| word.strip_prefix('r').is_some_and(|digits| digits.parse::<u8>().is_ok());
        let mut masked = String::new();
        for word in text.trim_end().split_inclusive(|c: char| !c.is_alphanumeric()) {
            let name = word.trim_end_matches(|c: char| !c.is_alphanumeric());
            if is_route(name) {
                let known = self.0.iter().position(|route| route == name).unwrap_or(self.0.len());
                if known == self.0.len() {
                    self.0.push(name.to_owned());
                }
                masked += &format!("<node {known}>{}", &word[name.len()..]);
            } else {
                masked += word;
            }
        }
        masked
    }
}

/// The fenced blocks of a text, in their order.
pub(crate) fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut parts = text.split("```");
    let mut above = last_line(parts.next().unwrap_or_default());
    let mut blocks = Vec::new();
    while let (Some(block), Some(after)) = (parts.next(), parts.next()) {
        let (language, text) = block.split_once('\n').unwrap();
        blocks.push(Block { language, text, above });
        above = last_line(after);
    }
    blocks
}

fn last_line(text: &str) -> &str {
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default()
}

/// The commands of a console block, each behind `$ `.
pub(crate) fn steps(block: &str) -> Vec<Step<'_>> {
    let mut steps: Vec<Step<'_>> = Vec::new();
    for line in block.lines() {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => steps.push(Step { command, shown: String::new() }),
            (None, Some(step)) => step.shown += &format!("{line}\n"),
            (None, None) => panic!("{line:?} stands above the first command"),
        }
    }
    steps
}

/// Numbers become `#`, columns two spaces; digits of a name stay. What is said about waiting depends on the moment, and
/// a digest on every byte of a webapp.
pub(crate) fn masked(text: &str) -> String {
    let mut masked = String::new();
    for line in text.trim_end().lines().filter(|line| !line.contains(": waiting, ")) {
        let (mut before, mut spaces) = (' ', 0);
        let line = line.split("(sha256 ").next().unwrap_or(line);
        for c in line.trim_end().chars() {
            spaces = if c == ' ' { spaces + 1 } else { 0 };
            let in_number = c.is_ascii_digit() && before == '#';
            let begins_number = c.is_ascii_digit() && !before.is_alphanumeric();
            if !in_number && spaces <= 2 {
                masked.push(if begins_number { '#' } else { c });
            }
            before = if begins_number || in_number { '#' } else { c };
        }
        masked.push('\n');
    }
    masked
}

/// The words of a command; of a shell's quoting only that of a whole word is known.
pub(crate) fn words(command: &str) -> Vec<&str> {
    command.split_whitespace().map(|word| word.trim_matches('\'')).collect()
}

/// The command in a line of a shell, without the comment behind it, and the variables that the line sets for it.
pub(crate) fn command(line: &str) -> (&str, Vec<(&str, &str)>) {
    let line = line.split(" #").next().unwrap_or_default().trim();
    let mut rest = line;
    let mut variables = Vec::new();
    while let Some((word, after)) = rest.split_once(' ')
        && let Some((name, value)) = word.split_once('=')
    {
        variables.push((name, value));
        rest = after;
    }
    (rest, variables)
}
