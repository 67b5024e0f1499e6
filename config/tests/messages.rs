use youquanti_config::Config;
#[test]
fn show() {
    for f in std::env::var("SHOW").unwrap().split(':') {
        let text = std::fs::read_to_string(f).unwrap();
        match Config::from_toml(&text, f) {
            Ok(c) => println!("{c:#?}"),
            Err(e) => println!("{e}\n-----"),
        }
    }
}
