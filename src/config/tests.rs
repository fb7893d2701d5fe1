//! Where values come from, what is refused, and that the document is the table.

use super::*;

fn inputs(environment: &[(&str, &str)]) -> Inputs {
    let environment = environment.iter().map(|&(name, text)| (name.to_owned(), text.to_owned())).collect();
    Inputs { environment, ..Inputs::default() }
}

fn resolve(environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::resolve(inputs(environment))
}

fn source(config: &Config, name: &str) -> ValueSource {
    config.values.iter().find(|value| value.name == name).expect("every setting is shown").source.clone()
}

#[test]
fn nothing_needs_to_be_set() {
    let config = resolve(&[]).unwrap();
    assert_eq!((config.rank, config.world_size, config.restart_count), (None, None, 0));
    assert_eq!(config.store, "127.0.0.1:29501");
    assert_eq!(config.job, "default");
    assert_eq!(config.bind.to_string(), "127.0.0.1:0");
    assert_eq!((config.links_per_peer, config.chunk_bytes, config.egress_bytes_per_s), (2, 1 << 20, None));
    assert_eq!(config.grace, Duration::from_secs(30));
    assert_eq!((config.insecure, config.notice_file), (false, None));
    assert_eq!(config.log_format, LogFormat::Text);
    assert!(config.warnings.is_empty());
    let names: Vec<&str> = config.values.iter().map(|value| value.name).collect();
    assert_eq!(names, SETTINGS.map(|setting| setting.name));
}

#[test]
fn torchrun_gives_rank_job_and_store() {
    let config = resolve(&[
        ("RANK", "3"),
        ("WORLD_SIZE", "4"),
        ("MASTER_ADDR", "node-0"),
        ("MASTER_PORT", "29400"),
        ("TORCHELASTIC_RUN_ID", "run-7"),
        ("TORCHELASTIC_RESTART_COUNT", "2"),
    ])
    .unwrap();
    assert_eq!((config.rank, config.world_size, config.restart_count), (Some(3), Some(4), 2));
    assert_eq!((config.store.as_str(), config.job.as_str()), ("node-0:29401", "run-7"));
    assert_eq!(source(&config, "XFER_STORE").to_string(), "from MASTER_ADDR, MASTER_PORT");
    assert_eq!(source(&config, "RANK"), ValueSource::Environment);
    let last_port = resolve(&[("MASTER_ADDR", "node-0"), ("MASTER_PORT", "65535")]).unwrap();
    assert_eq!(last_port.store, "127.0.0.1:29501");
}

#[test]
fn a_flag_goes_before_the_environment_and_that_before_the_file() {
    let file = Some((PathBuf::from("xfer.toml"), "grace = \"3s\"\nlinks = 3\nchunk = \"3MiB\"".to_owned()));
    let flags = vec![Flag { name: "XFER_GRACE", flag: "--grace", text: "1s".to_owned() }];
    let given = inputs(&[("XFER_GRACE", "2s"), ("XFER_LINKS", "2")]);
    let config = Config::resolve(Inputs { file, flags, ..given }).unwrap();
    assert_eq!(config.grace, Duration::from_secs(1));
    assert_eq!((config.links_per_peer, config.chunk_bytes), (2, 3 << 20));
    assert_eq!(source(&config, "XFER_GRACE"), ValueSource::Flag("--grace"));
    assert_eq!(source(&config, "XFER_LINKS"), ValueSource::Environment);
    assert_eq!(source(&config, "XFER_CHUNK").to_string(), "xfer.toml");
    assert_eq!(source(&config, "XFER_LOG"), ValueSource::Default);
}

#[test]
fn transports_are_named_best_first_or_left_to_what_is_here() {
    let transports = |text| resolve(&[("XFER_TRANSPORTS", text)]).unwrap().transports;
    assert_eq!(transports("auto"), None);
    assert_eq!(transports("tcp, shm"), Some(vec![BackendId::Tcp, BackendId::Shm]));
    assert_eq!(transports("shm"), Some(vec![BackendId::Shm]));
    assert_eq!(transports("verbs,tcp"), Some(vec![BackendId::Verbs, BackendId::Tcp]));
}

#[test]
fn rdma_devices_are_named_with_or_without_a_place() {
    let devices = |text| resolve(&[("XFER_VERBS_DEVICE", text)]).map(|config| config.verbs_device);
    for text in ["mlx5_0", "mlx5_0:1", "rxe0:1/1,rxe1:1/3"] {
        assert_eq!(devices(text).unwrap(), Some(text.to_owned()));
    }
    assert_eq!(devices("").unwrap(), None);
    for text in ["rxe0:", "rxe0:1/", "rxe0:1/2/3", "rxe0:256", ",", ":1"] {
        assert!(devices(text).unwrap_err().to_string().contains("mlx5_0:1/3"), "{text}");
    }
}

#[test]
fn copies_are_left_out_of_no_chunk_of_large_ones_or_from_a_size_on() {
    let zerocopy = |text| resolve(&[("XFER_ZEROCOPY", text)]).map(|config| config.zerocopy);
    assert_eq!(resolve(&[]).unwrap().zerocopy, ZeroCopy::Off);
    assert_eq!(
        ["0", "off", "auto", "64KiB", "4294967295"].map(|text| zerocopy(text).unwrap()),
        [ZeroCopy::Off, ZeroCopy::Off, ZeroCopy::AUTO, ZeroCopy::From(64 << 10), ZeroCopy::From(u32::MAX),]
    );
    for text in ["yes", "-1", "4GiB"] {
        assert!(zerocopy(text).unwrap_err().to_string().contains("256KiB"), "{text}");
    }
}

#[test]
fn an_empty_variable_is_none() {
    assert_eq!(resolve(&[("XFER_LINKS", ""), ("RANK", "")]).unwrap().links_per_peer, 2);
}

#[test]
fn what_is_not_understood_says_what_would_be() {
    let error = resolve(&[("XFER_CHUNK", "banana")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "XFER_CHUNK=banana (environment) is not understood: \
         a size is a number of bytes with or without a unit, as in 1MiB, 4MB or 1048576"
    );
    for (name, text) in [
        ("RANK", "-1"),
        ("XFER_STORE", "nowhere"),
        ("XFER_STORE_TIMEOUT", "soon"),
        ("XFER_BIND", "node:1"),
        ("XFER_LINKS", "17"),
        ("XFER_TRANSPORTS", "shm,shm"),
        ("XFER_TRANSPORTS", "rdma"),
        ("XFER_CHUNK", "1"),
        ("XFER_EGRESS", "fast"),
        ("XFER_INSECURE", "maybe"),
        ("XFER_LOG_FORMAT", "xml"),
    ] {
        let error = resolve(&[(name, text)]).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{name}={text} (environment) is not understood: ")), "{error}");
    }
}

#[test]
fn a_name_that_is_nearly_right_is_hinted_at() {
    let warnings = |name: &str| resolve(&[(name, "x")]).unwrap().warnings.join("; ");
    for (wrong, right) in [
        ("XFER_STROE", "XFER_STORE"),
        ("XFER_NOTICEFILE", "XFER_NOTICE_FILE"),
        ("XFER_LOGFMT", "XFER_LOG"),
        ("XFER_IMDS", "XFER_IMDS_URL"),
        ("XFER_EGRES", "XFER_EGRESS"),
        ("XFER_START", "XFER_START_TIMEOUT"),
    ] {
        let warning = warnings(wrong);
        assert_eq!(warning, format!("{wrong} is not a setting of xfer and has no effect; did you mean {right}?"));
    }
    let warning = warnings("XFER_BANANA");
    assert!(warning.ends_with("has no effect; `xfer info --config` shows all there are"), "{warning}");
    assert_eq!(resolve(&[("XFERX", "x"), ("PATH", "x")]).unwrap().warnings, Vec::<String>::new());
}

#[test]
fn the_file_is_checked_like_the_environment() {
    let with_file = |text: &str| {
        let file = Some((PathBuf::from("job/xfer.toml"), text.to_owned()));
        Config::resolve(Inputs { file, ..Inputs::default() })
    };
    let config = with_file("insecure = true\negress = 1000\nstroe = \"x\"").unwrap();
    assert_eq!((config.insecure, config.egress_bytes_per_s), (true, Some(1000)));
    assert_eq!(
        config.warnings,
        ["`stroe` in job/xfer.toml is not a setting of xfer and has no effect; did you mean store?"]
    );
    let error = with_file("links = 99").unwrap_err().to_string();
    assert!(error.starts_with("XFER_LINKS=99 (job/xfer.toml) is not understood"), "{error}");
    let error = with_file("links = [1]").unwrap_err().to_string();
    assert!(error.starts_with("the configuration file job/xfer.toml can't be read: `links` is neither"), "{error}");
    let error = with_file("config = 'other.toml'").unwrap_err().to_string();
    assert!(error.ends_with("it names another configuration file, which is not followed"), "{error}");
    assert!(matches!(with_file("links ="), Err(ConfigError::File { .. })));
}

#[test]
fn the_metadata_service_can_be_named_or_switched_off() {
    let url = |text| resolve(&[("XFER_IMDS_URL", text)]).unwrap().imds_url;
    assert_eq!(url("off"), None);
    assert_eq!(url("http://127.0.0.1:1338").as_deref(), Some("http://127.0.0.1:1338"));
    assert_eq!(url("auto").is_some(), notice::is_ec2());
}

#[test]
fn there_are_few_settings_and_the_document_is_their_table() {
    assert!(SETTINGS.len() <= 25);
    assert_eq!(include_str!("settings.md"), markdown(), "write what markdown() says to src/config/settings.md");
}
