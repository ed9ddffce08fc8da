use super::*;

const LONGEST: usize = CommandLine::LONGEST;

fn redacted(arguments: &[&str]) -> Vec<String> {
    let mut line = CommandLine::default();
    arguments
        .iter()
        .map(|argument| line.argument(argument).unwrap_or_else(|| (*argument).to_owned()))
        .collect()
}

/// One argument behind `-e`.
fn variables(text: &str) -> String {
    redacted(&["-e", text]).remove(1)
}

#[test]
fn variables_in_every_form() {
    for (given, expected) in [
        ("db_password=x", "db_password=***"),
        ("user=joe db_password=x port=1", "user=joe db_password=*** port=1"),
        ("db_password='a b' user=joe", "db_password=*** user=joe"),
        (r#"db_password="a b" user=joe"#, "db_password=*** user=joe"),
        (r#"db_password="a \" b" user=joe"#, "db_password=*** user=joe"),
        (r"db_password=a\ b user=joe", "db_password=*** user=joe"),
        ("'db_password=a b' user=joe", "db_password=*** user=joe"),
        ("db_password=a b c user=joe", "db_password=*** user=joe"),
        ("db_password=a=b;c&d,e", "db_password=***"),
        ("db_password=my-key= user=joe", "db_password=*** user=joe"),
        ("user=my-key= db=x", "user=my-key= db=x"),
        ("db_password='correct horse=battery' user=joe", "db_password=*** user=joe"),
        ("user='a -k b' db_password='a -k SECRET'", "user='a -k b' db_password=***"),
        ("msg=\"db_password='a b=c' x=y\" user=joe", "msg='db_password=*** x=y' user=joe"),
        ("db_password=a\tb=c user=joe", "db_password=*** user=joe"),
        (r"p\x61ssword=a user=joe", "*** user=joe"),
        ("db_password = x user=joe", "db_password = *** user=joe"),
        ("db_password =x user=joe", "db_password =*** user=joe"),
        ("db_password= x user=joe", "db_password= *** user=joe"),
        ("db_password= user=joe", "db_password= user=joe"),
        ("db_password: x", "db_password: ***"),
        ("db_password={{ 'a' ~ 'b' }} user=joe", "db_password=*** user=joe"),
        ("ansible_become_pass=x", "ansible_become_pass=***"),
        ("msg=\"it's my password=x y\" a=b", "msg='it'\"'\"'s my password=***' a=b"),
        ("msg=it's db_password=x", "msg=it's db_password=***"),
        (
            r#"{"db_password": "x", "n": {"api_token": "y", "b": [1, 2]}}"#,
            r#"{"db_password": "***", "n": {"api_token": "***", "b": [1, 2]}}"#,
        ),
        ("{db_password: x, user: joe}", r#"{db_password: "***", user: joe}"#),
        (r#"cfg={"password": "a b", "c": 1} user=joe"#, r#"cfg={"password": "***", "c": 1} user=joe"#),
        ("@/etc/passwords=1", "@/etc/passwords=1"),
        ("url=postgres://u:p@h/d", "url=postgres://***@h/d"),
        ("dsn_=1", "dsn_=***"),
        ("db=u:p@q@tcp(h:3306)/d", "db=u:***@tcp(h:3306)/d"),
        ("c=\"Server=h;User Password=a b;Database=d\" user=joe", "c='Server=h;User Password=***' user=joe"),
        ("Server=h;Password=a b;Database=d", "Server=h;Password=***"),
        ("https://h/?a=b&token=x&c=d", "https://h/?a=b&token=***"),
        ("ansible_ssh_private_key_file=/k user=joe", "ansible_ssh_private_key_file=/k user=joe"),
        ("{{ x }} db_password=x", "{{ x }} db_password=***"),
        ("{\"db_password\": \"x\"", "***"),
        ("{\"user\": \"joe\"", "{\"user\": \"joe\""),
        ("grün=ö пароль=x", "grün=ö пароль=x"),
        ("", ""),
        ("=", "="),
        ("=x", "=x"),
    ] {
        assert_eq!(variables(given), expected, "{given}");
    }
}

#[test]
fn options_in_every_form() {
    for (given, expected) in [
        (&["-edb_password=x"][..], &["-edb_password=***"][..]),
        (&["-e=db_password=x"], &["-e=db_password=***"]),
        (&["-vvKe", "db_password=x"], &["-vvKe", "db_password=***"]),
        (&["-vedb_password=x y"], &["-vedb_password=***"]),
        (&[r#"-e{"db_password": "x", "a": 1}"#], &[r#"-e{"db_password": "***", "a": 1}"#]),
        (&["--extra-vars", "db_password=x"], &["--extra-vars", "db_password=***"]),
        (&["--extra-vars=db_password=x a=b"], &["--extra-vars=db_password=*** a=b"]),
        (&["--extra={db_password: x}"], &["--extra={db_password: \"***\"}"]),
        (&["--extra-vars=@secrets.yml"], &["--extra-vars=@secrets.yml"]),
        (&["--vault-password=x y"], &["--vault-password=***"]),
        (&["--vault-pass", "x", "play.yml"], &["--vault-pass", "***", "play.yml"]),
        (&["--vault-password-file", "/v", "a"], &["--vault-password-file", "/v", "a"]),
        (&["--become-password-file=/v"], &["--become-password-file=/v"]),
        (&["--private-key", "/k"], &["--private-key", "/k"]),
        (&["--private-key=~/.ssh/key"], &["--private-key=~/.ssh/key"]),
        (&["--token", "-x-"], &["--token", "***"]),
        (&["--my-pass-flag", "--become", "-K", "x"], &["--my-pass-flag", "--become", "-K", "x"]),
        (&["--ask-pass", "play.yml"], &["--ask-pass", "play.yml"]),
        (&["-password", "x"], &["-password", "***"]),
        (&["-p", "x"], &["-p", "x"]),
        (
            &["--ssh-common-args=-o StrictHostKeyChecking=no -o ProxyCommand=\"ssh u@h\""],
            &["--ssh-common-args=-o StrictHostKeyChecking=no -o ProxyCommand=\"ssh u@h\""],
        ),
        (&["-a", "mysql --password=x -e 'show tables'"], &["-a", "mysql --password=*** -e 'show tables'"]),
        (&["-a", "mysql --password x db"], &["-a", "mysql --password ***"]),
        (&["-a", "name=joe password=x state=present"], &["-a", "name=joe password=*** state=present"]),
        (&["-H", "Authorization: Bearer x"], &["-H", "Authorization: ***"]),
        (&["-i", "h1,h2", "-l", "a:b", "site.yml"], &["-i", "h1,h2", "-l", "a:b", "site.yml"]),
        (&["-v", "/a:/b:Z", "q.io/ee:1@sha256:ab"], &["-v", "/a:/b:Z", "q.io/ee:1@sha256:ab"]),
        (&["git+ssh://git@h/r", "u@h"], &["git+ssh://***@h/r", "u@h"]),
    ] {
        assert_eq!(redacted(given), expected, "{given:?}");
    }
}

#[test]
fn scripts() {
    for (given, expected) in [
        (
            "ssh-add /k && ansible-playbook -e db_password=x -e 'a=b c=d' site.yml",
            "ssh-add /k && ansible-playbook -e db_password=*** -e 'a=b c=d' site.yml",
        ),
        (
            r#"ansible-playbook -e '{"db_password": "it'"'"'s", "user": "joe"}' --vault-pass x site.yml"#,
            r#"ansible-playbook -e '{"db_password": "***", "user": "joe"}' --vault-pass *** site.yml"#,
        ),
        ("DB_PASSWORD=x ansible all -m ping", "DB_PASSWORD=*** ansible all -m ping"),
    ] {
        assert_eq!(redacted(&["ssh-agent", "sh", "-c", given]), ["ssh-agent", "sh", "-c", expected]);
        assert_eq!(redacted(&["/bin/bash", "-e", "-lc", given])[3], expected);
        assert_eq!(CommandLine::script(given).as_deref(), Some(expected));
        // In a container, in a script.
        let quoted = format!("sh -c '{}'", given.replace('\'', r#"'"'"'"#));
        assert!(!redacted(&["sh", "-c", &quoted])[2].contains("=x"));
    }
    assert_eq!(CommandLine::script("ansible-playbook -i 'a b' site.yml"), None);
}

#[test]
fn what_is_long_or_deep_is_masked() {
    assert_eq!(redacted(&[&"x".repeat(LONGEST + 1)]), [MASK]);
    assert_eq!(CommandLine::script(&"x".repeat(LONGEST + 1)).as_deref(), Some(MASK));
    let mut deep = "db_password=canary".to_owned();
    for _ in 0..20 {
        deep = serde_json::json!({ "a": deep }).to_string();
        assert!(!variables(&deep).contains("canary"), "{deep}");
    }
    for open in ["'", "\"", "{{", "{", "[", "{a: ", "{\"a\": \"", "a:", "://", "=", "\\", "a=\"'", "@:"] {
        let start = std::time::Instant::now();
        let long = open.repeat(LONGEST / open.len());
        redacted(&["-e", &long, "-e", &format!("{{{long}")]);
        assert!(start.elapsed().as_secs() < 5, "{open}");
    }
}

#[test]
fn what_is_no_text() {
    let mut line = CommandLine::default();
    line.argument("--password");
    assert!(line.is_secret() && !line.is_secret());
}
