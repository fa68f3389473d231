-- One step, after what is over has ended. The reply: incarnation, µs until the next term ends ('' if
-- none runs), and the step's own.
local STEPS = {
    expire = function() return { 'done' } end,
    register = function() return register(take(), take(), take(), take()) end,
    renew = function() return renew(take(), take()) end,
    deregister = function() return deregister(take()) end,
    nodes = nodes,
    drain = function() return drain(take(), take()) end,
    publish_keys = function() return publish_keys(take()) end,
    keys = keys,
    create = function() return create(take(), take(), take(), take(), take(), take_codes()) end,
    session = function() return session(take()) end,
    code = function() return by_code(take()) end,
    rotate_code = function() return rotate_code(take(), take(), take_codes()) end,
    revoke_code = function() return revoke_code(take(), take()) end,
    raise_ballot = function() return raise_ballot(take(), take(), take()) end,
    install_view = function() return install_view(take(), take(), take_view()) end,
    restore = function() return restore(take(), take(), take(), take(), take(), take_view()) end,
    assert = function() return assert_listing(take(), take(), take()) end,
    list = function()
        local after, limit = take(), tonumber(take())
        return page(after, limit,
            { region = take(), app_version = take(), open_seats = tonumber(take()), unlisted = take() })
    end,
    close = function() return close_session(take(), take()) end,
}

expire()
local reply = STEPS[STEP]()
call('HSET', META, 'now', decimal(now), 'behind', decimal(now - clock))
local due = call('ZRANGE', DUE, 0, 0, 'WITHSCORES')
local at = tonumber(due[2] or '')
local wait = at and at <= EPOCH_MAX and decimal(math.max(0, at - now)) or ''
table.insert(reply, 1, wait)
table.insert(reply, 1, incarnation)
return reply
